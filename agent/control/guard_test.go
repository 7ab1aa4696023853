package control

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// leaver counts how often it was asked to leave.
type leaver struct {
	scripted
	left int
}

func (l *leaver) Leave(context.Context) error { l.left++; return nil }

// Pages of other sites, in a browser of the machine, cannot command the agent: not by
// a form, not by a script, and not by a name of theirs that leads to this machine.
func TestOtherSitesAreRefused(t *testing.T) {
	const json, form = "application/json", "application/x-www-form-urlencoded"
	for name, c := range map[string]struct {
		method, url, contentType string
		header                   [2]string
		want                     int
	}{
		"the command line":        {"POST", "http://127.0.0.1:7947/v1/leave", json, [2]string{}, 200},
		"by name":                 {"POST", "http://localhost:7947/v1/leave", json + "; charset=utf-8", [2]string{}, 200},
		"by IPv6":                 {"POST", "http://[::1]:7947/v1/leave", json, [2]string{}, 200},
		"its own page":            {"POST", "http://127.0.0.1:7947/v1/leave", json, [2]string{"Origin", "http://127.0.0.1:7947"}, 200},
		"its own page, new":       {"POST", "http://127.0.0.1:7947/v1/leave", json, [2]string{"Sec-Fetch-Site", "same-origin"}, 200},
		"typed into the browser":  {"GET", "http://127.0.0.1:7947/v1/info", "", [2]string{"Sec-Fetch-Site", "none"}, 200},
		"a name that leads here":  {"POST", "http://rebound.example:7947/v1/leave", json, [2]string{}, 403},
		"a name, to read":         {"GET", "http://rebound.example:7947/v1/info", "", [2]string{}, 403},
		"an address of others":    {"POST", "http://10.0.0.5:7947/v1/leave", json, [2]string{}, 403},
		"a script":                {"POST", "http://127.0.0.1:7947/v1/leave", json, [2]string{"Origin", "https://evil.example"}, 403},
		"a script, new":           {"POST", "http://127.0.0.1:7947/v1/leave", json, [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
		"another port here":       {"POST", "http://127.0.0.1:7947/v1/leave", json, [2]string{"Sec-Fetch-Site", "same-site"}, 403},
		"another port here, old":  {"POST", "http://127.0.0.1:7947/v1/leave", json, [2]string{"Origin", "http://127.0.0.1:80"}, 403},
		"a sandboxed page":        {"POST", "http://127.0.0.1:7947/v1/leave", json, [2]string{"Origin", "null"}, 403},
		"a form":                  {"POST", "http://127.0.0.1:7947/v1/leave", form, [2]string{}, 415},
		"plain text":              {"POST", "http://127.0.0.1:7947/v1/leave", "text/plain", [2]string{}, 415},
		"no type":                 {"POST", "http://127.0.0.1:7947/v1/leave", "", [2]string{}, 415},
		"a program, by TCP":       {"POST", "http://127.0.0.1:7947/v1/replace", bundleType, [2]string{}, 409},
		"an injection that is no": {"POST", "http://127.0.0.1:7947/v1/inject", json, [2]string{}, 415},
	} {
		t.Run(name, func(t *testing.T) {
			b := &leaver{}
			status, e := call(Handler(b), c.method, c.url, c.contentType, c.header)
			if status != c.want {
				t.Errorf("status %d, want %d: %+v", status, c.want, e)
			}
			if want := status == 200 && c.method == "POST"; (b.left == 1) != want {
				t.Errorf("the agent was asked to leave %d times", b.left)
			}
			if status != 200 && (e.Kind != KindRefused || e.Message == "" || e.Hint == "") {
				t.Errorf("it says %+v, want what is wrong and what to do", e)
			}
		})
	}
}

func call(h http.Handler, method, url, contentType string, header [2]string) (int, Error) {
	r := httptest.NewRequest(method, url, strings.NewReader("{}"))
	r.Header.Set("Content-Type", contentType)
	if header[0] != "" {
		r.Header.Set(header[0], header[1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var e Error
	_ = json.Unmarshal(w.Body.Bytes(), &e) // of an answer that is no error it stays empty
	return w.Code, e
}

// By the unix socket nothing has changed: whoever may open it may call.
func TestUnixSocketIsNotGuarded(t *testing.T) {
	_, c := serve(t)
	resp, err := c.http.Post("http://whatever/v1/leave", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status %s", resp.Status)
	}
}

// With a token the API may be reached from elsewhere, by those who have it.
func TestToken(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token, err := ReadToken(secret)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := ServeToken(l, &leaver{}, token, slog.New(slog.DiscardHandler))
	defer s.Close()
	c := NewClient("http://" + l.Addr().String())
	defer c.Close()
	if err := c.Leave(t.Context()); err == nil || asError(err).Kind != KindRefused {
		t.Errorf("without the token: %v", err)
	}
	c.UseToken(secret)
	if err := c.Leave(t.Context()); err != nil {
		t.Errorf("with the token: %v", err)
	}
	h := guard{token, routes(&leaver{}, nil)}
	for auth, want := range map[string]int{"Bearer " + token: 200, "Bearer ": 401, "Bearer 0123456789abcdeg": 401, token: 401} {
		if status, _ := call(h, "POST", "http://n1.example:7947/v1/leave", "application/json", [2]string{"Authorization", auth}); status != want {
			t.Errorf("%q: status %d, want %d", auth, status, want)
		}
	}
}

func TestReadTokenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"short":    {"secret", 0o600, "at least 16"},
		"two":      {"0123456789abcdef 0123456789abcdef", 0o600, "at least 16"},
		"readable": {"0123456789abcdef", 0o640, "chmod 600"},
		"long":     {strings.Repeat("x", maxToken+1), 0o600, "more than"},
	} {
		path := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadToken(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestCheckAddress(t *testing.T) {
	for addr, alone := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "localhost:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true,
		"0.0.0.0:1": false, ":1": false, "[::]:1": false, "10.0.0.5:1": false, "localhost.example:1": false, "n1:1": false,
	} {
		if err := CheckAddress(addr, false); (err == nil) != alone {
			t.Errorf("%s: %v", addr, err)
		}
		if err := CheckAddress(addr, true); err != nil {
			t.Errorf("%s with a token: %v", addr, err)
		}
	}
}
