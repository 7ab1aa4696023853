//go:build unix

package transforms

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A live state is copied as it is, but for sockets; one that is written to all the while is
// copied all the same, and the copy is said to be torn.
func TestCopyLive(t *testing.T) {
	from := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(from, name), []byte(text), 0o640); err != nil {
			t.Error(err)
		}
	}
	write("a", "one")
	if err := errors.Join(os.Mkdir(filepath.Join(from, "sub"), 0o750), os.Link(filepath.Join(from, "a"), filepath.Join(from, "sub", "b")), os.Symlink("a", filepath.Join(from, "link"))); err != nil {
		t.Fatal(err)
	}
	want, _, _, err := DigestTree(from)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(from, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := t.TempDir()
	if torn, err := copyLive(t.Context(), from, to); err != nil || torn {
		t.Fatalf("torn %v, %v", torn, err)
	}
	if got, _, _, err := DigestTree(to); err != nil || got != want {
		t.Errorf("the copy is another, %v", err)
	}

	stop := make(chan struct{})
	var writer sync.WaitGroup
	begun := make(chan struct{})
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			write(fmt.Sprint("f", i%50), fmt.Sprint(i))
			os.Remove(filepath.Join(from, fmt.Sprint("f", (i+25)%50)))
			if i == 100 {
				close(begun)
			}
		}
	})
	<-begun
	tornOnce := false // the writer need not get a turn in each
	for range 20 {
		torn, err := copyLive(t.Context(), from, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		tornOnce = tornOnce || torn
	}
	if !tornOnce {
		t.Error("it was written to all the while, and no copy is torn")
	}
	close(stop)
	writer.Wait()
}

// Where there are no mounts the program that copies a live state is shown that, not a copy
// such as it is to do better than.
func TestLiveProgramSeesTheState(t *testing.T) {
	j := newJob(t, "exit")
	j.Live, j.Spec.Exec = true, []string{"/bin/sh", "-c", `echo "$MOULT_OLD" > "$MOULT_NEW/seen"`}
	if _, err := (Runner{Protect: ProtectCopy}).Run(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	if seen, err := os.ReadFile(filepath.Join(j.New, "seen")); err != nil || string(seen) != j.Old+"\n" {
		t.Errorf("it was shown %q, %v; want %s", seen, err, j.Old)
	}
}
