//go:build unix

package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/testdata/line/line2"
)

// testObject is what exec objects of the tests do, by name.
func testObject(name string) int {
	if name == "line2" {
		return line2.Main(os.Args[3:])
	}
	if name == "agent" {
		return testAgent(os.Args[3], os.Args[4])
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch name {
	case "never":
		<-ctx.Done()
		return 0
	case "deaf": // it does not end when asked to either
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "exits":
		fmt.Fprintln(os.Stderr, "there is no config")
		return 3
	case "eats":
		for b := make([]byte, 1<<20); ; b = append(b, b...) {
			b[len(b)-1] = 1
		}
	case "own":
		ln, err := net.Listen("tcp", os.Getenv("MOULT_LISTEN_API"))
		return passOn(ctx, ln, err)
	case "flood":
		go func() {
			for {
				fmt.Fprintln(os.Stdout, strings.Repeat("flood ", 1000))
			}
		}()
	case "forks":
		// Out of the session, and not asked to end.
		c := exec.Command(os.Args[0], "test-object", "deaf")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			return 1
		}
		fmt.Println("forked", c.Process.Pid)
		if err := os.WriteFile(filepath.Join(os.Getenv("MOULT_STATE"), "forked"), nil, 0o600); err != nil {
			return 1
		}
	case "observes":
		ln, err := inherited()
		return observe(ctx, ln, err)
	case "udp":
		context.AfterFunc(ctx, func() { os.Exit(0) })
		return proxyPackets()
	case "stalls":
		ln, err := inherited()
		for range 2 {
			if err == nil {
				var c net.Conn
				if c, err = ln.Accept(); err == nil {
					c.Close()
				}
			}
		}
		<-ctx.Done()
		return 0
	case "crashes":
		ln, err := inherited()
		if err == nil {
			_, err = ln.Accept()
		}
		panic(fmt.Sprint("crashed by a caller ", err))
	}
	ln, err := inherited()
	return passOn(ctx, ln, err)
}

func inherited() (net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" || os.Getenv("LISTEN_FDNAMES") != "api" {
		return nil, errors.New("no socket for this process")
	}
	return net.FileListener(os.NewFile(3, "api"))
}

// proxy carries every connection to next.
func passOn(ctx context.Context, ln net.Listener, err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	for {
		c, err := ln.Accept()
		if err != nil {
			return 0
		}
		go func() {
			up, err := net.Dial("tcp", os.Getenv("MOULT_NEXT_API"))
			if err != nil {
				stream.Reset(c)
				return
			}
			stream.Splice(c, up)
		}()
	}
}

// observe keeps the events that it is told of in a file of its state, and answers
// whoever calls it with them.
func observe(ctx context.Context, ln net.Listener, err error) int {
	if err != nil {
		return 1
	}
	mux := http.NewServeMux()
	kept := filepath.Join(os.Getenv("MOULT_STATE"), "events")
	mux.HandleFunc("POST "+os.Getenv("MOULT_OBSERVED"), func(w http.ResponseWriter, r *http.Request) {
		var e so.Observed
		f, err := os.OpenFile(kept, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			err = json.NewDecoder(r.Body).Decode(&e)
		}
		if err == nil {
			_, err = fmt.Fprintln(f, e.Event, e.Method, e.URI, string(e.Request.Body), e.Status)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		data, _ := os.ReadFile(kept)
		_, _ = w.Write(data)
	})
	srv := &http.Server{Handler: mux}
	context.AfterFunc(ctx, func() { srv.Close() })
	_ = srv.Serve(ln)
	return 0
}

// proxyPackets makes the packets upper case on their way back.
func proxyPackets() int {
	in, err := net.FilePacketConn(os.NewFile(3, "api"))
	if err != nil {
		return 1
	}
	up, err := net.Dial("udp", os.Getenv("MOULT_NEXT_API"))
	if err != nil {
		return 1
	}
	buf := make([]byte, 100)
	for {
		n, from, err := in.ReadFrom(buf)
		if err != nil {
			return 1
		}
		up.Write(buf[:n])
		if n, err = up.Read(buf); err == nil {
			in.WriteTo([]byte(strings.ToUpper(string(buf[:n]))), from)
		}
	}
}

// testAgent is an agent with an exec object and a rules object; it writes the
// numbers of their processes.
func testAgent(dir, rules string) int {
	h, err := Start(Config{Dir: dir, Services: api})
	if err == nil {
		_, err = h.Set(context.Background(), Objects{Native: 2, List: []Object{
			{Version: 1, To: 2, Kind: KindRules, Path: rules},
			{Version: 3, To: 2, Kind: KindExec, Dir: dir, State: dir, Argv: []string{os.Args[0], "test-object", "forks"}, Env: os.Environ()},
		}})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for tick := time.Tick(5 * time.Millisecond); ; <-tick {
		if a, b := statsOf(h, 1).PID, statsOf(h, 3).PID; a != 0 && b != 0 {
			fmt.Println(a, b)
			select {}
		}
	}
}
