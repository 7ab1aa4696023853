//go:build unix

package fdstore

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// roleVar says what this program is to do in the place of its tests.
const roleVar = "FDSTORE_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(m.Run())
	case "serve":
		err = serve()
	case "execute":
		err = execute()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve answers one caller at the socket that was passed on.
func serve() error {
	if v := os.Getenv(passed); v == "" {
		return fmt.Errorf("nothing is passed on")
	}
	s := Open(slog.Default())
	if v, set := os.LookupEnv(passed); set {
		return fmt.Errorf("the environment goes on to say %q", v)
	}
	f := s.Take("tcp.api.0")
	if f == nil {
		return fmt.Errorf("there is no socket")
	}
	if s.Take("tcp.api.0") != nil {
		return fmt.Errorf("a socket is there twice")
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return err
	}
	s.Done()
	if f := s.Take("tcp.other.0"); f != nil {
		return fmt.Errorf("what nobody took is still there")
	}
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(conn, "served")
	conn.Close()
	return err
}

// execute has another program in its place serve, with the sockets that were passed on.
func execute() error {
	s := Open(slog.Default())
	for _, name := range []string{"tcp.api.0", "tcp.other.0"} {
		s.Keep(name, s.Take(name))
	}
	variable, err := s.Exec()
	if err != nil {
		return err
	}
	os.Setenv(roleVar, "serve") // the first of two would count
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), variable))
}

// keep keeps a new listener, which is closed: the copy is open.
func keep(t *testing.T, s *Store, name string) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	s.Keep(name, f)
	ln.Close()
	return ln.Addr()
}

// A caller who comes while nobody accepts is served by the program after, whether that is a
// child or takes the place of one.
func TestPass(t *testing.T) {
	for _, role := range []string{"serve", "execute"} {
		t.Run(role, func(t *testing.T) {
			if _, err := os.Stat("/proc/self/exe"); role == "execute" && err != nil {
				t.Skip(err)
			}
			s := Open(slog.Default())
			defer s.Close()
			at := keep(t, s, "tcp.api.0")
			keep(t, s, "tcp.other.0")
			conn, err := net.Dial("tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			files, variable := s.Pass()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), roleVar+"="+role, variable) // os/exec lets the last of two count
			cmd.ExtraFiles = files
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got, err := io.ReadAll(conn); string(got) != "served" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// What is dropped, or replaced, refuses its callers.
func TestDrop(t *testing.T) {
	s := Open(slog.Default())
	defer s.Close()
	dropped, replaced := keep(t, s, "a"), keep(t, s, "b")
	kept := keep(t, s, "b")
	s.Drop("a")
	s.Drop("a")
	for at, want := range map[net.Addr]bool{dropped: false, replaced: false, kept: true} {
		conn, err := net.Dial("tcp", at.String())
		if err == nil {
			conn.Close()
		}
		if (err == nil) != want {
			t.Errorf("%v: %v, want a socket: %v", at, err, want)
		}
	}
	s.Close()
	if conn, err := net.Dial("tcp", kept.String()); err == nil {
		conn.Close()
		t.Error("a closed store keeps a socket")
	}
}

// What an environment of no agent says is left alone, and said.
func TestOpenBad(t *testing.T) {
	for _, list := range []string{"api", "api=", "api=x", "api=2", "api=-1", "api=99999", "api=1048577,,", "=="} {
		t.Setenv(passed, list)
		var log strings.Builder
		s := Open(slog.New(slog.NewTextHandler(&log, nil)))
		if len(s.left) != 0 {
			t.Errorf("%q: took %d", list, len(s.left))
		}
		if !strings.Contains(log.String(), "is not there") {
			t.Errorf("%q: nothing is said", list)
		}
		s.Done()
	}
	if f, err := os.Stdout.Stat(); err != nil {
		t.Errorf("standard output: %v, %v", f, err)
	}
}
