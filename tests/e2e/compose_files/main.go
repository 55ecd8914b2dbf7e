// Reads files of samples/compose as their programs do: the Compose file with Docker Compose's own loader, a board
// with Grafana's own types. Prints JSON; what is wrong with a file goes to standard error, with exit code 1.
//
//	compose-files compose FILE
//	compose-files board FILE
//	compose-files yaml FILE
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"go.yaml.in/yaml/v4"
)

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: compose-files compose|board|yaml FILE"))
	}
	read := map[string]func(string) (any, error){"compose": compose, "board": board, "yaml": plain}[os.Args[1]]
	result, err := read(os.Args[2])
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// compose is what `docker compose --profile '*' config` reads: variables from .env and the environment, everything
// checked against the specification.
func compose(path string) (any, error) {
	options, err := cli.NewProjectOptions(
		[]string{path}, cli.WithOsEnv, cli.WithEnvFiles(), cli.WithDotEnv, cli.WithProfiles([]string{"*"}),
	)
	if err != nil {
		return nil, err
	}
	return options.LoadProject(context.Background())
}

// board refuses fields that Grafana does not know, and values that it does not take.
func board(path string) (any, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	runtime := cog.NewRuntime()
	runtime.RegisterPanelcfgVariant(stat.VariantConfig())
	runtime.RegisterPanelcfgVariant(timeseries.VariantConfig())
	runtime.RegisterDataqueryVariant(prometheus.VariantConfig())
	var read dashboard.Dashboard
	if err := read.UnmarshalJSONStrict(raw); isWrong(err) {
		return nil, err
	}
	if err := read.Validate(); isWrong(err) {
		return nil, err
	}
	return json.RawMessage(raw), nil
}

// isWrong: Grafana's types may answer with a list of errors that is empty.
func isWrong(err error) bool {
	var list cog.BuildErrors
	return err != nil && !(errors.As(err, &list) && len(list) == 0)
}

func plain(path string) (any, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var content any
	err = yaml.Unmarshal(raw, &content)
	return content, err
}
