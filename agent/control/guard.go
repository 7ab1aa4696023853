package control

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"moult/store/durable"
)

// TokenVariable names the file of a client's token in the environment of the command
// line, which hands it to [Client.UseToken].
const TokenVariable = "MOULT_API_TOKEN"

// guard keeps out callers that the unix socket's permissions would have kept out:
// pages of other sites in a browser of this machine, and, by the token, whoever can
// reach the address. Calls by the unix socket pass, but for those of the node's own programs
// that work in a sandbox: their user may be the agent's.
type guard struct {
	token string // "": only this machine may call
	next  http.Handler
}

func (g guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && local.Network() == "unix" {
		if inside, _ := r.Context().Value(sandboxKey{}).(bool); inside {
			answerError(w, http.StatusForbidden, &Error{
				Kind: KindRefused, Message: "the control API is not for transforms and programs of simulation objects, in whose sandbox this caller is",
				Hint: "call it from outside; where a container only looks like one (no_new_privs, and a filter of system calls), by api and api_token",
			})
			return
		}
		g.next.ServeHTTP(w, r)
		return
	}
	if status, e := g.check(r); e != nil {
		answerError(w, status, e)
		return
	}
	g.next.ServeHTTP(w, r)
}

func answerError(w http.ResponseWriter, status int, e *Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e) // the caller may have gone
}

func (g guard) check(r *http.Request) (status int, e *Error) {
	refuse := func(status int, hint, format string, args ...any) (int, *Error) {
		return status, &Error{Kind: KindRefused, Message: fmt.Sprintf(format, args...), Hint: hint}
	}
	switch {
	case g.token != "" && !g.hasToken(r):
		return refuse(http.StatusUnauthorized, "name the file with the agent's token in "+TokenVariable, "the control API of this agent wants its token")
	case g.token == "" && !onLoopback(r.Host):
		// A name of another site may lead here, and then its pages count as ours.
		return refuse(http.StatusForbidden, "call it by 127.0.0.1 or localhost, or give the agent an api_token", "the control API is not served under the name %q", r.Host)
	case fromOtherSite(r):
		return refuse(http.StatusForbidden, "use the command line on this machine", "the control API is not for pages of other sites")
	}
	want := "application/json"
	switch r.URL.Path {
	case injectPath:
		want = "multipart/form-data"
	case rehearsePath, replacePath:
		want = bundleType
	}
	given := r.Header.Get("Content-Type")
	if kind, _, err := mime.ParseMediaType(given); r.Method == http.MethodPost && (err != nil || kind != want) {
		return refuse(http.StatusUnsupportedMediaType, "send Content-Type: "+want, "the control API takes %s at %s, not %q", want, r.URL.Path, given)
	}
	return 0, nil
}

func (g guard) hasToken(r *http.Request) bool {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && subtle.ConstantTimeCompare([]byte(given), []byte(g.token)) == 1
}

// fromOtherSite reports whether a browser says that a page that is not the API's own
// makes the call. Old browsers send no Sec-Fetch-Site; what is no browser sends
// neither header.
func fromOtherSite(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site != "same-origin" && site != "none"
	}
	origin := r.Header.Get("Origin")
	return origin != "" && origin != "http://"+r.Host
}

// onLoopback reports whether a host, with or without a port, is this machine by its
// own word.
func onLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// CheckAddress refuses an address to serve the API on by TCP that others than this
// machine can reach, unless callers need a token.
func CheckAddress(hostport string, token bool) error {
	if token || onLoopback(hostport) {
		return nil
	}
	return errors.New("whoever reaches it could command the agent: use an address of this machine alone, such as \"127.0.0.1:7947\", or set api_token")
}

// ReadToken reads the file of a token, which only its owner may read.
func ReadToken(path string) (string, error) {
	data, err := durable.ReadSecret(path, maxToken)
	if err != nil {
		return "", fmt.Errorf("token of the control API: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if len(token) < minToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("token of the control API: %s: want at least %d letters, digits and signs, such as `head -c 24 /dev/urandom | base64` makes", path, minToken)
	}
	return token, nil
}
