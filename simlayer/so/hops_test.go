package so

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestHops(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	rounds := 0
	for {
		out, err := Hop(r, Hops(r.Header))
		if err != nil {
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Status != http.StatusLoopDetected || rounds != MaxHops {
				t.Errorf("%v after %d rounds", err, rounds)
			}
			break
		}
		if rounds++; Hops(out.Header) != rounds || Hops(r.Header) != rounds-1 {
			t.Fatalf("round %d: %v from %v", rounds, out.Header, r.Header)
		}
		r = out
	}
	for _, nonsense := range []string{"", "x", "-1", "99999999999999999999"} {
		if n := Hops(http.Header{HopsHeader: {nonsense}}); n != 0 {
			t.Errorf("%q is %d hops", nonsense, n)
		}
	}
	if out, err := Hop(&http.Request{}, 0); err != nil || Hops(out.Header) != 1 {
		t.Error(out, err)
	}
}
