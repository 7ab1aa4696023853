package calls

import (
	"errors"
	"log/slog"
	"net/http"
	"testing"

	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// A panic in an object fails its call.
func TestSimulatedPanic(t *testing.T) {
	chain, err := so.NewChain(1, 2, map[bundle.Version]so.Object{1: breaking{}})
	if err != nil {
		t.Fatal(err)
	}
	all := New(Config{Ctx: t.Context(), Log: slog.New(slog.DiscardHandler)})
	c := (&front{calls: all, port: all.OpenPort(nil, PortConfig{})}).simulation()
	c.path = &routes.Path{Chain: chain}
	if resp, err := c.call(); resp != nil || !errors.Is(err, errBroke) {
		t.Errorf("%v, %v", resp, err)
	}
}

type breaking struct{}

func (breaking) Answer(*http.Request, http.RoundTripper) (*http.Response, error) { panic("broken") }
