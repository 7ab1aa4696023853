//go:build unix

package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"moult/cmd/moult/internal/cluster"
)

// TestMain lets the test binary be what the demo, the tests and agents start: an
// agent, a node of the sample system, the object host, or an object that does wrong.
func TestMain(m *testing.M) {
	badBuild()
	if len(os.Args) > 2 && os.Args[1] == badObjectCommand {
		os.Exit(badObject(os.Args[2]))
	}
	// Whatever is typed as a command is one: these tests run by no argument, and would begin anew.
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		main()
	}
	// Tests of clusters wait for processes much more than they compute.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err) // there is no such flag any more
	}
	testscript.Main(m, map[string]func(){
		"moult": main,
	})
}

// TestScripts runs the command line as its users do; each script of
// testdata/script reads like a manual. Besides testscript's own commands:
//
//	ports NAME…            sets each variable to a free port of the loopback
//	ports -range N A B     sets A and B to the first and last of N free ports in a row
//	exits CODE moult …     runs moult and checks its exit code
//	flip FILE OFFSET       flips the lowest bit of one byte
//	cut FILE N             keeps the first N bytes of a file
//	expand FILE…           puts the values of variables for $NAME into files
//	agent NAME             starts the agent whose data folder is NAME by NAME/agent.hcl
//	                       and waits until it answers; it logs to NAME/agent.log. The
//	                       script's end ends it, with its node's software
//	! agent NAME           waits until that agent has ended by itself
//	await AGENT REGEXP     waits until the agent's status matches: as JSON, followed
//	                       by what people are shown
//	record AGENT FILE      writes down all that must not change: the agent's status
//	                       and the signed metadata that it holds
//	fetch URL FILE REGEXP  writes what a web server answers to a file, once it matches
//	listen PORT            takes a port of the loopback; "! listen PORT" frees it
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GOOS", runtime.GOOS)
			env.Setenv("GOARCH", runtime.GOARCH)
			env.Setenv("NO_COLOR", "1")
			env.Values[agents{}] = map[string]*cluster.Agent{}
			env.Values[listeners{}] = map[string]net.Listener{}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"ports": ports, "exits": exits, "flip": flip, "cut": cut,
			"expand": expand, "agent": startAgent, "await": await, "record": record, "fetch": fetch, "listen": listen,
		},
		Condition: func(cond string) (bool, error) {
			if cond != "root" {
				return false, fmt.Errorf("condition %q is not known", cond)
			}
			return os.Geteuid() == 0, nil
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

func ports(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) == 4 && args[0] == "-range" {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		base := reserve(ts, n)
		ts.Setenv(args[2], strconv.Itoa(base))
		ts.Setenv(args[3], strconv.Itoa(base+n-1))
		return
	}
	base := reserve(ts, len(args))
	for i, name := range args {
		ts.Setenv(name, strconv.Itoa(base+i))
	}
}

// reserve returns the first of n ports that are the script's until it ends.
func reserve(ts *testscript.TestScript, n int) int {
	p, err := cluster.ReservePorts(n)
	ts.Check(err)
	ts.Defer(func() { ts.Check(p.Release()) })
	return p.First
}

// exits runs moult in this process, so that its exit code can be checked.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || args[1] != "moult" {
		ts.Fatalf("usage: exits CODE moult ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("moult", args[2:]...)
	got := 0
	if err != nil {
		if _, scan := fmt.Sscanf(err.Error(), "exit status %d", &got); scan != nil {
			ts.Fatalf("moult did not run: %v", err)
		}
	}
	if got != want {
		ts.Fatalf("moult %s: exit code %d, want %d", strings.Join(args[2:], " "), got, want)
	}
}

func flip(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	data[at] ^= 1
	ts.Check(os.WriteFile(path, data, 0o600))
}

func cut(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: cut FILE N")
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}

// TestUsage checks that every command has a line of help and refuses what it
// does not know.
func TestUsage(t *testing.T) {
	for _, c := range newApp(nil, nil).Commands {
		if c.Usage == "" {
			t.Errorf("moult %s: no usage", c.Name)
		}
		var out, errs strings.Builder
		if code := run(context.Background(), []string{"moult", c.Name, "--no-such-flag"}, &out, &errs); code != exitMisuse {
			t.Errorf("moult %s --no-such-flag: exit code %d, want %d", c.Name, code, exitMisuse)
		}
		if !strings.HasPrefix(errs.String(), "moult: ") {
			t.Errorf("moult %s --no-such-flag: message %q", c.Name, errs.String())
		}
		if out.Len() > 0 {
			t.Errorf("moult %s --no-such-flag: wrote to standard output: %q", c.Name, out.String())
		}
	}
}
