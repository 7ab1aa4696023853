package web

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"mime"
	"net"
	"net/http"
	"strings"
	"sync"
)

// policy lets the page load its own files and ask its own server, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// guard lets in who has the cookie, at the address that was given, from the page itself.
type guard struct {
	host   string // with the port, as it was given, but for port 80, which browsers leave out
	cookie string // its name, which has the port: browsers keep cookies by host alone
	secret string
	next   http.Handler

	mu    sync.Mutex
	token string // "" once it was used
	used  chan struct{}
}

func newGuard(addr net.Addr, next http.Handler) *guard {
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		port = "0"
	}
	return &guard{host: strings.TrimSuffix(addr.String(), ":80"), cookie: "moult_ui_" + port, secret: random(), token: random(), used: make(chan struct{}), next: next}
}

// random is 192 bits that nobody can guess. crypto/rand ends the program where it has none.
func random() string {
	b := make([]byte, 24)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if status, why := g.refuses(r); why != "" {
		g.refuse(w, status, why)
		return
	}
	if token := r.URL.Query().Get("token"); token != "" && r.Method == http.MethodGet && r.URL.Path == "/" {
		if !g.use(token) && !g.has(r) {
			g.refuse(w, http.StatusUnauthorized, "this address was used already, or is not the one that the command has printed; it is good once: end `moult ui` and start it again for another")
			return
		}
		http.SetCookie(w, &http.Cookie{Name: g.cookie, Value: g.secret, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	if !g.has(r) {
		g.refuse(w, http.StatusUnauthorized, "open the address that `moult ui` has printed; it is good once, for one browser")
		return
	}
	g.next.ServeHTTP(w, r)
}

func (g *guard) refuse(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Connection", "close") // places are few
	http.Error(w, "moult: "+why, status)
}

// refuses looks at where a request is sent to, and by what.
func (g *guard) refuses(r *http.Request) (status int, why string) {
	changes := r.Method != http.MethodGet && r.Method != http.MethodHead
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	switch {
	case r.Host != g.host:
		// A name of another site may lead here, and then its pages count as ours.
		return http.StatusForbidden, "the page is not served under this name: open the address that the command has printed"
	case origin != "" && origin != "http://"+g.host, site != "" && site != "same-origin" && (site != "none" || changes):
		return http.StatusForbidden, "the page is not for pages of other sites"
	case changes && origin == "" && site == "":
		return http.StatusForbidden, "no browser has said that it is the page that asks for this"
	case changes && (err != nil || kind != "application/json"):
		return http.StatusUnsupportedMediaType, "send Content-Type: application/json"
	}
	return 0, ""
}

// use takes the token, which is good once.
func (g *guard) use(token string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token == "" || !same(token, g.token) {
		return false
	}
	g.token = ""
	close(g.used)
	return true
}

func (g *guard) has(r *http.Request) bool {
	c, err := r.Cookie(g.cookie)
	return err == nil && same(c.Value, g.secret)
}
