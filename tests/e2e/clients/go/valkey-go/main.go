// What valkey-go can do with a server; package checks says how it is told.
package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"clients/checks"

	"github.com/valkey-io/valkey-go"
)

var (
	ctx  = context.Background()
	both = []int{2, 3}
)

func with(protocol int, change func(*valkey.ClientOption)) (valkey.Client, error) {
	options := valkey.ClientOption{
		InitAddress: []string{checks.Address}, Password: checks.Password, ForceSingleClient: true,
		AlwaysRESP2: protocol == 2, DisableCache: protocol == 2,
	}
	if change != nil {
		change(&options)
	}
	return valkey.NewClient(options)
}

// using gives the check a client that is closed after it.
func using(change func(*valkey.ClientOption), run func(valkey.Client, string) error) func(int) error {
	return func(protocol int) error {
		client, err := with(protocol, change)
		if err != nil {
			return err
		}
		defer client.Close()
		return run(client, checks.Prefix+string(rune('0'+protocol)))
	}
}

func do(client valkey.Client, words ...string) valkey.ValkeyResult {
	return client.Do(ctx, client.B().Arbitrary(words...).Build())
}

func roundTrip(client valkey.Client, key string) error {
	if err := do(client, "SET", key, "v").Error(); err != nil {
		return err
	}
	return readsAs(client, key, "v")
}

func readsAs(client valkey.Client, key, wanted string) error {
	value, err := do(client, "GET", key).ToString()
	return errors.Join(err, checks.Same(value, wanted))
}

func main() {
	for index, name := range []string{"RESP2", "RESP3"} {
		checks.Check(name, both[index:index+1], using(nil, func(client valkey.Client, key string) error {
			err := do(client, "HSET", key+"h", "f", "v").Error()
			reply, err2 := do(client, "HGETALL", key+"h").ToMessage()
			return errors.Join(err, err2, checks.Same(reply.IsMap(), name == "RESP3"), roundTrip(client, key))
		}))
	}
	if checks.TLSPort != "" {
		checks.Check("TLS", both, using(func(options *valkey.ClientOption) {
			options.InitAddress, options.TLSConfig = []string{checks.TLSAddress}, checks.TLS()
		}, roundTrip))
	}
	checks.Check("ACL user", both, using(func(options *valkey.ClientOption) {
		options.Username, options.Password = checks.User, checks.UserPassword
	}, aclUser))
	checks.Check("database 3", both, using(func(options *valkey.ClientOption) { options.SelectDB = 3 }, database))
	checks.Check("pipeline", both, using(nil, pipeline))
	checks.Check("transaction", both, using(nil, transaction))
	checks.Check("pub/sub", both, using(nil, pubsub))
	checks.Check("blocking pop", both, using(nil, blockingPop))
	checks.Check("script", both, using(nil, script))
	checks.Check("client-side caching", both[1:], using(nil, caching))
	reconnect()
}

func aclUser(client valkey.Client, key string) error {
	who, err := do(client, "ACL", "WHOAMI").ToString()
	refused := do(client, "CONFIG", "SET", "maxmemory", "0").Error()
	if refused == nil || !strings.HasPrefix(refused.Error(), "NOPERM") {
		return errors.New("CONFIG SET was not refused")
	}
	return errors.Join(err, checks.Same(who, checks.User), roundTrip(client, key))
}

func database(client valkey.Client, key string) error {
	if err := do(client, "SET", key+"db", "3").Error(); err != nil {
		return err
	}
	other, err := with(3, nil)
	if err != nil {
		return err
	}
	defer other.Close()
	elsewhere, err := do(other, "EXISTS", key+"db").AsInt64()
	return errors.Join(err, checks.Same(elsewhere, 0), readsAs(client, key+"db", "3"))
}

func pipeline(client valkey.Client, key string) error {
	commands := make(valkey.Commands, 1000)
	for index := range commands {
		commands[index] = client.B().Incr().Key(key + "n").Build()
	}
	for index, reply := range client.DoMulti(ctx, commands...) {
		value, err := reply.AsInt64()
		if err := errors.Join(err, checks.Same(value, index+1)); err != nil {
			return err
		}
	}
	return nil
}

func transaction(client valkey.Client, key string) error {
	executed := func(between func() error) (executed bool, err error) {
		err = client.Dedicated(func(own valkey.DedicatedClient) error {
			if err := own.Do(ctx, own.B().Watch().Key(key+"tx").Build()).Error(); err != nil {
				return err
			}
			if err := between(); err != nil {
				return err
			}
			replies := own.DoMulti(ctx, own.B().Multi().Build(), own.B().Incr().Key(key+"tx").Build(), own.B().Exec().Build())
			_, err := replies[2].ToArray()
			executed = err == nil
			if valkey.IsValkeyNil(err) {
				return nil
			}
			return err
		})
		return executed, err
	}
	done, err := executed(func() error { return nil })
	if err := errors.Join(err, checks.Same(done, true)); err != nil {
		return err
	}
	done, err = executed(func() error { return do(client, "INCR", key+"tx").Error() })
	return errors.Join(err, checks.Same(done, false), readsAs(client, key+"tx", "2"))
}

func pubsub(client valkey.Client, key string) error {
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	found := ""
	subscribed := valkey.WithOnSubscriptionHook(limited, func(subscription valkey.PubSubSubscription) {
		if subscription.Kind == "subscribe" {
			go do(client, "PUBLISH", key+"channel", "hello")
		}
	})
	err := client.Receive(subscribed, client.B().Subscribe().Channel(key+"channel").Build(), func(message valkey.PubSubMessage) {
		found = message.Message
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		return err
	}
	return checks.Same(found, "hello")
}

func blockingPop(client valkey.Client, key string) error {
	time.AfterFunc(100*time.Millisecond, func() { do(client, "RPUSH", key+"list", "late") })
	popped, err := client.Do(ctx, client.B().Blpop().Key(key+"list").Timeout(10).Build()).AsStrSlice()
	if err := errors.Join(err, checks.Same(popped, []string{key + "list", "late"})); err != nil {
		return err
	}
	err = client.Do(ctx, client.B().Blpop().Key(key+"list").Timeout(1).Build()).Error()
	if !valkey.IsValkeyNil(err) {
		return errors.New("a pop of an empty list did not end with nil")
	}
	return nil
}

func script(client valkey.Client, key string) error {
	program := valkey.NewLuaScript("return {KEYS[1], ARGV[1], tostring(redis.call('INCR', KEYS[1]))} -- " + key)
	for _, wanted := range []string{"1", "2"} {
		reply, err := program.Exec(ctx, client, []string{key + "script"}, []string{"a"}).AsStrSlice()
		if err := errors.Join(err, checks.Same(reply, []string{key + "script", "a", wanted})); err != nil {
			return err
		}
	}
	return nil
}

func caching(client valkey.Client, key string) error {
	writer, err := with(3, nil)
	if err != nil {
		return err
	}
	defer writer.Close()
	for _, value := range []string{"1", "2"} {
		if err := do(writer, "SET", key+"cached", value).Error(); err != nil {
			return err
		}
		err := checks.Eventually(func() error {
			reply := client.DoCache(ctx, client.B().Get().Key(key+"cached").Cache(), time.Minute)
			found, err := reply.ToString()
			return errors.Join(err, checks.Same(found, value), checks.Same(reply.IsCacheHit(), true))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func reconnect() {
	clients := map[int]valkey.Client{}
	for _, protocol := range both {
		client, err := with(protocol, nil)
		if err != nil {
			panic(err)
		}
		clients[protocol] = client
		if err := roundTrip(client, checks.Prefix+"kept"); err != nil {
			panic(err)
		}
	}
	checks.Crash()
	checks.Check("reconnect", both, func(protocol int) error {
		return checks.Eventually(func() error { return readsAs(clients[protocol], checks.Prefix+"kept", "v") })
	})
}
