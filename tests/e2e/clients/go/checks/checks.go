// Package checks says what a client could do, a line a check, and waits for the crash that the harness makes.
package checks

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"
)

// Where the server is and who may come in; without TLSAddress it has no TLS.
var (
	Address      = "127.0.0.1:" + os.Getenv("PORT")
	TLSPort      = os.Getenv("TLS_PORT")
	TLSAddress   = "127.0.0.1:" + TLSPort
	Password     = os.Getenv("PASSWORD")
	User         = os.Getenv("CLIENT_USER")
	UserPassword = os.Getenv("CLIENT_PASSWORD")
	Prefix       = os.Getenv("PREFIX")
)

const patience = 15 * time.Second

// Check runs it once for each protocol.
func Check(name string, protocols []int, run func(protocol int) error) {
	for _, protocol := range protocols {
		if err := run(protocol); err != nil {
			fmt.Printf("FAILED %s: RESP%d: %v\n", name, protocol, err)
			return
		}
	}
	fmt.Println("ok", name)
}

// TLS trusts the authority of the harness and no other; nil where the server has no TLS.
func TLS() *tls.Config {
	pem, err := os.ReadFile(os.Getenv("CA_FILE"))
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: roots, ServerName: "localhost"}
}

// Eventually repeats it until it succeeds.
func Eventually(run func() error) error {
	end := time.Now().Add(patience)
	for {
		err := run()
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Crash lets the harness kill the engine; it returns when that has happened.
func Crash() {
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
}

// Same is an error where the two differ.
func Same(found, wanted any) error {
	if f, w := fmt.Sprint(found), fmt.Sprint(wanted); f != w {
		return fmt.Errorf("found %s, wanted %s", f, w)
	}
	return nil
}
