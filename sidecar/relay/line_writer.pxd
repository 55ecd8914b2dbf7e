# Lines of CLIENT LIST.

cdef bytes aged_line(bytes head, long long age_s, long long idle_s, bytes tail)
