//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"moult/testdata/kit"
)

// browser is a headless Chromium with one page.
type browser struct {
	t   *testing.T
	ctx context.Context
	out string // for pictures
}

// newBrowser starts Chromium; a test is skipped where there is none.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Skip("skipped: there is no Chromium here to look at the page with")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.WindowSize(1280, 900))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it does not start as root with one
	}
	ctx, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, leave := chromedp.NewContext(ctx)
	t.Cleanup(leave)
	out := os.Getenv("MOULT_PICTURES")
	if out == "" {
		out = t.ArtifactDir()
	}
	// What comes first starts the browser, which ends with the context of that.
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatal(err)
	}
	err := chromedp.Listen(ctx, func(ev any) {
		if e, ok := ev.(*runtime.EventExceptionThrown); ok {
			t.Errorf("the page has failed: %v", e.ExceptionDetails)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, ctx, out}
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, kit.Patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// call is a command to the browser.
func call[P, R any](b *browser, c cdp.Command[P, R], params P) R {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, kit.Patience)
	defer cancel()
	result, err := chromedp.Call(ctx, c, params)
	if err != nil {
		b.t.Fatal(err)
	}
	return result
}

// eval is what an expression of the page is, a promise's value included.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, kit.Patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%v in %.200s", err, expression)
	}
	return value
}

func (b *browser) run(script string) {
	b.t.Helper()
	eval[chromedp.Void](b, script)
}

// until waits until an expression of the page is true, looking at each frame.
func (b *browser) until(what, expression string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, kit.Patience)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingTimeout(0))); err != nil {
		b.t.Fatalf("wait for %s: %v; the page says\n%s", what, err, eval[string](b, `document.body.innerText`))
	}
}

// click clicks what a selector finds, once it is there and can be.
func (b *browser) click(selector string) {
	b.t.Helper()
	b.do(chromedp.WaitEnabled(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector)))
}

func (b *browser) view(name string) {
	b.t.Helper()
	b.click("#tab-" + name)
	b.until("the view "+name, fmt.Sprintf(`!document.getElementById(%q).hidden`, name))
}

// looks are how the page may be shown.
var looks = []struct{ width, height int64 }{{360, 740}, {1280, 900}, {2560, 1440}}

// pictures takes the page as it is at each width, or at those that are named, in the dark and
// in the light, and looks for what sticks out at the side.
func (b *browser) pictures(name string, widths ...int64) {
	b.t.Helper()
	for _, l := range looks {
		if len(widths) > 0 && !slices.Contains(widths, l.width) {
			continue
		}
		for _, scheme := range []string{"light", "dark"} {
			b.do(chromedp.EmulateViewport(l.width, l.height))
			call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			over := eval[int](b, `new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(document.documentElement.scrollWidth - document.documentElement.clientWidth))))`)
			if over > 0 {
				b.t.Errorf("%s at %d px: %d px stick out at the side", name, l.width, over)
			}
			png := call(b, page.CaptureScreenshot, page.CaptureScreenshotParams{Format: page.CaptureScreenshotFormatPng}).Data
			if err := os.WriteFile(filepath.Join(b.out, fmt.Sprintf("%s-%d-%s.png", name, l.width, scheme)), png, 0o600); err != nil {
				b.t.Fatal(err)
			}
			if l.width == 1280 {
				for _, v := range b.barriers() {
					b.t.Errorf("%s, %s: axe-core: %s", name, scheme, v)
				}
			}
		}
	}
	b.do(chromedp.EmulateViewport(1280, 900))
}

// barriers are what axe-core finds serious on the page for who cannot see it, or not well; none
// where MOULT_AXE does not name its file. Of many squares it looks at some.
func (b *browser) barriers() (found []json.RawMessage) {
	b.t.Helper()
	path := os.Getenv("MOULT_AXE")
	if path == "" {
		return nil
	}
	if !eval[bool](b, `typeof axe === 'object'`) {
		script, err := os.ReadFile(path)
		if err != nil {
			b.t.Fatal(err)
		}
		b.run(string(script) + "\n;true")
	}
	list := eval[string](b, `axe.run({ exclude: [['.grid.dense li:nth-child(n+20)']] }, { resultTypes: ['violations'] }).then(r => JSON.stringify(
		r.violations.filter(v => v.impact === 'serious' || v.impact === 'critical')
			.map(v => ({ id: v.id, help: v.help, nodes: v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + ' ' + (n.any[0]?.message ?? '')) }))))`)
	if err := json.Unmarshal([]byte(list), &found); err != nil {
		b.t.Fatal(err)
	}
	return found
}

// download clicks what hands out a file, and returns its bytes.
func (b *browser) download(selector string) []byte {
	b.t.Helper()
	dir := b.t.TempDir()
	ctx, cancel := context.WithTimeout(b.ctx, kit.Patience)
	defer cancel()
	progress := chromedp.BrowserEvents(ctx, cdpbrowser.DownloadProgress)
	_, err := chromedp.CallBrowser(ctx, cdpbrowser.SetDownloadBehavior, cdpbrowser.SetDownloadBehaviorParams{
		Behavior: cdpbrowser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir, EventsEnabled: new(true),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.click(selector)
	for e, err := range progress {
		if err != nil {
			b.t.Fatalf("%s hands out nothing: %v", selector, err)
		}
		if e.State == cdpbrowser.DownloadProgressStateCompleted {
			break
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		b.t.Fatalf("%q, %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

// firstLine is what a command prints, of which a test waits for the first line.
type firstLine struct {
	first chan string
	text  strings.Builder
}

func (l *firstLine) Write(p []byte) (int, error) {
	l.text.Write(p)
	if line, _, ok := strings.Cut(l.text.String(), "\n"); ok {
		select {
		case l.first <- line:
		default:
		}
	}
	return len(p), nil
}

// ui runs the command until the test ends, and returns the address that it prints.
func ui(t *testing.T, args ...string) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, errs := &firstLine{first: make(chan string, 1)}, &strings.Builder{}
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, append([]string{"moult", "ui"}, args...), out, errs) }()
	t.Cleanup(func() {
		stop()
		if code := <-ended; code != exitDone {
			t.Errorf("moult ui: exit code %d: %s", code, errs)
		}
	})
	select {
	case address := <-out.first:
		return address
	case code := <-ended:
		ended <- code
		t.Fatalf("moult ui has ended: %d %s", code, errs)
	case <-time.After(kit.Patience):
		t.Fatal(errors.New("moult ui prints no address"))
	}
	return ""
}
