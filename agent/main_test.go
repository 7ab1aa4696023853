package agent

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"moult/agent/account/bounds"
	"moult/agent/rehearse"
	"moult/simlayer/host"
)

// objectCommand makes the test binary be a simulation object.
const objectCommand = "test-object"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case host.CommandName:
			os.Exit(host.Main(os.Args[2:], os.Stderr))
		case bounds.CommandName:
			os.Exit(bounds.Main(os.Args[2:], os.Stderr))
		case rehearse.CommandName:
			os.Exit(rehearse.Main(os.Args[2:], os.Stdout, os.Stderr))
		case objectCommand:
			os.Exit(beObject(len(os.Args) > 2))
		case echoCommand:
			os.Exit(beEcho(os.Args[2]))
		case observerCommand:
			os.Exit(beObserver())
		}
	}
	os.Exit(m.Run())
}

// echoCommand makes the test binary be software that answers each line with itself.
const echoCommand = "test-echo"

func beEcho(addr string) int {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return 1
		}
		go func() {
			defer c.Close()
			for in := bufio.NewScanner(c); in.Scan(); {
				fmt.Fprintln(c, in.Text())
			}
		}()
	}
}

// beObject passes each line on, over a connection of its own, and notes it in its
// state. A slow one ends only when the file "go" is in its state, and leaves "end".
func beObject(slow bool) int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	ln, err := net.FileListener(os.NewFile(3, "api"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	state := os.Getenv("MOULT_STATE")
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go passOn(c, os.Getenv("MOULT_NEXT_API"), filepath.Join(state, "log"))
		}
	}()
	<-term
	for slow {
		if _, err := os.Stat(filepath.Join(state, "go")); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := os.WriteFile(filepath.Join(state, "end"), []byte("the end\n"), 0o600); err != nil {
		return 1
	}
	return 0
}

func passOn(c net.Conn, next, log string) {
	defer c.Close()
	for in := bufio.NewScanner(c); in.Scan(); {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return
		}
		fmt.Fprintln(f, in.Text())
		f.Close()
		reply, err := askLine(next, in.Text())
		if err != nil {
			return
		}
		fmt.Fprintln(c, "by object: "+reply)
	}
}

// askLine sends a line to an address and returns the answer.
func askLine(addr, line string) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return askLineOver(c, line)
}

func askLineOver(c net.Conn, line string) (string, error) {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	reply, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSuffix(reply, "\n"), err
}
