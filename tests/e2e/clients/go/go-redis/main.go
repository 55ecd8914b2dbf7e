// What go-redis can do with a server; package checks says how it is told.
package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"clients/checks"

	"github.com/redis/go-redis/v9"
)

var (
	ctx  = context.Background()
	both = []int{2, 3}
)

func with(protocol int, change func(*redis.Options)) *redis.Client {
	options := &redis.Options{Addr: checks.Address, Protocol: protocol, Password: checks.Password}
	if change != nil {
		change(options)
	}
	return redis.NewClient(options)
}

// using gives the check a client that is closed after it.
func using(change func(*redis.Options), run func(*redis.Client, string) error) func(int) error {
	return func(protocol int) error {
		client := with(protocol, change)
		defer client.Close()
		return run(client, checks.Prefix+string(rune('0'+protocol)))
	}
}

func roundTrip(client *redis.Client, key string) error {
	if err := client.Set(ctx, key, "v", 0).Err(); err != nil {
		return err
	}
	value, err := client.Get(ctx, key).Result()
	return errors.Join(err, checks.Same(value, "v"))
}

func main() {
	checks.Check("RESP2", both[:1], using(nil, func(client *redis.Client, key string) error {
		_, err := client.Do(ctx, "HSET", key+"h", "f", "v").Result()
		reply, err2 := client.Do(ctx, "HGETALL", key+"h").Result()
		return errors.Join(err, err2, checks.Same(reply, "[f v]"), roundTrip(client, key))
	}))
	checks.Check("RESP3", both[1:], using(nil, func(client *redis.Client, key string) error {
		_, err := client.Do(ctx, "HSET", key+"h", "f", "v").Result()
		reply, err2 := client.Do(ctx, "HGETALL", key+"h").Result()
		return errors.Join(err, err2, checks.Same(reply, "map[f:v]"), roundTrip(client, key))
	}))
	if checks.TLSPort != "" {
		checks.Check("TLS", both, using(func(options *redis.Options) {
			options.Addr, options.TLSConfig = checks.TLSAddress, checks.TLS()
		}, roundTrip))
	}
	checks.Check("ACL user", both, using(func(options *redis.Options) {
		options.Username, options.Password = checks.User, checks.UserPassword
	}, aclUser))
	checks.Check("database 3", both, using(func(options *redis.Options) { options.DB = 3 }, database))
	checks.Check("pipeline", both, using(nil, pipeline))
	checks.Check("transaction", both, using(nil, transaction))
	checks.Check("pub/sub", both, using(nil, pubsub))
	checks.Check("blocking pop", both, using(nil, blockingPop))
	checks.Check("script", both, using(nil, script))
	checks.Check("client-side caching", both[1:], using(func(options *redis.Options) {
		options.ClientSideCacheConfig = &redis.ClientSideCacheConfig{}
	}, caching))
	reconnect()
}

func aclUser(client *redis.Client, key string) error {
	who, err := client.Do(ctx, "ACL", "WHOAMI").Result()
	refused := client.ConfigSet(ctx, "maxmemory", "0").Err()
	if refused == nil || !strings.HasPrefix(refused.Error(), "NOPERM") {
		return errors.New("CONFIG SET was not refused")
	}
	return errors.Join(err, checks.Same(who, checks.User), roundTrip(client, key))
}

func database(client *redis.Client, key string) error {
	if err := client.Set(ctx, key+"db", "3", 0).Err(); err != nil {
		return err
	}
	other := with(3, nil)
	defer other.Close()
	elsewhere, err := other.Exists(ctx, key+"db").Result()
	value, err2 := client.Get(ctx, key+"db").Result()
	return errors.Join(err, err2, checks.Same(elsewhere, 0), checks.Same(value, "3"))
}

func pipeline(client *redis.Client, key string) error {
	replies, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for range 1000 {
			pipe.Incr(ctx, key+"n")
		}
		return nil
	})
	if err != nil {
		return err
	}
	for index, reply := range replies {
		if err := checks.Same(reply.(*redis.IntCmd).Val(), index+1); err != nil {
			return err
		}
	}
	return nil
}

func transaction(client *redis.Client, key string) error {
	count := func(tx *redis.Tx) error {
		_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error { pipe.Incr(ctx, key+"tx"); return nil })
		return err
	}
	if err := client.Watch(ctx, count, key+"tx"); err != nil {
		return err
	}
	err := client.Watch(ctx, func(tx *redis.Tx) error {
		if err := client.Incr(ctx, key+"tx").Err(); err != nil {
			return err
		}
		return count(tx)
	}, key+"tx")
	if !errors.Is(err, redis.TxFailedErr) {
		return errors.New("a watched key changed and the transaction was executed")
	}
	value, err := client.Get(ctx, key+"tx").Result()
	return errors.Join(err, checks.Same(value, "2"))
}

func pubsub(client *redis.Client, key string) error {
	subscription := client.Subscribe(ctx, key+"channel")
	defer subscription.Close()
	if _, err := subscription.Receive(ctx); err != nil {
		return err
	}
	if err := client.Publish(ctx, key+"channel", "hello").Err(); err != nil {
		return err
	}
	message, err := subscription.ReceiveMessage(ctx)
	if err != nil {
		return err
	}
	return checks.Same(message.Payload, "hello")
}

func blockingPop(client *redis.Client, key string) error {
	time.AfterFunc(100*time.Millisecond, func() { client.RPush(ctx, key+"list", "late") })
	popped, err := client.BLPop(ctx, 10*time.Second, key+"list").Result()
	if err != nil {
		return err
	}
	_, err = client.BLPop(ctx, time.Second, key+"list").Result()
	if !errors.Is(err, redis.Nil) {
		return errors.New("a pop of an empty list did not end with nil")
	}
	return checks.Same(popped[1], "late")
}

func script(client *redis.Client, key string) error {
	program := redis.NewScript("return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])} -- " + key)
	for wanted := range 2 {
		reply, err := program.Run(ctx, client, []string{key + "script"}, "a").Slice()
		if err := errors.Join(err, checks.Same(reply, []any{key + "script", "a", wanted + 1})); err != nil {
			return err
		}
	}
	return nil
}

func caching(client *redis.Client, key string) error {
	writer := with(3, nil)
	defer writer.Close()
	read := func(wanted string) func() error {
		return func() error {
			value, err := client.Get(ctx, key+"cached").Result()
			return errors.Join(err, checks.Same(value, wanted))
		}
	}
	for _, value := range []string{"1", "2"} {
		if err := writer.Set(ctx, key+"cached", value, 0).Err(); err != nil {
			return err
		}
		if err := checks.Eventually(read(value)); err != nil {
			return err
		}
		hits := client.CSCStats().Hits
		err := checks.Eventually(func() error {
			if err := read(value)(); err != nil {
				return err
			}
			if client.CSCStats().Hits == hits {
				return errors.New("nothing was read from the cache")
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func reconnect() {
	clients := map[int]*redis.Client{}
	for _, protocol := range both {
		clients[protocol] = with(protocol, nil)
		if err := roundTrip(clients[protocol], checks.Prefix+"kept"); err != nil {
			panic(err)
		}
	}
	checks.Crash()
	checks.Check("reconnect", both, func(protocol int) error {
		return checks.Eventually(func() error {
			value, err := clients[protocol].Get(ctx, checks.Prefix+"kept").Result()
			return errors.Join(err, checks.Same(value, "v"))
		})
	})
}
