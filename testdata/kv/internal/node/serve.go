package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Exit codes of a program.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitMisuse = 2
)

// Program is one version of kv as a program that serves.
type Program struct {
	// Name goes before messages.
	Name string
	// Open opens the state that c names and returns what answers the calls.
	Open func(c Config, log *slog.Logger) (http.Handler, error)
	// Migrate makes this version's state in the folder to out of the previous
	// version's in the folder from, and returns the number of objects. nil
	// where there is no previous version.
	Migrate func(ctx context.Context, from, to string) (objects int, err error)
	// Back is the other way; nil where there is none.
	Back func(ctx context.Context, from, to string) (objects int, err error)
}

// Main runs the program until SIGTERM or SIGINT and returns its exit code.
// args is without the program's name.
func (p Program) Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	// The first signal starts the clean end; a second one ends at once.
	context.AfterFunc(ctx, stop)
	return p.Run(ctx, args, os.Getenv, os.Stdout, os.Stderr)
}

// Run is Main until ctx ends. The line "NAME: listening on host:port" goes to
// stdout once calls are answered.
func (p Program) Run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if p.Migrate != nil && len(args) > 0 && args[0] == "migrate" {
		return p.migrate(ctx, p.Migrate, args[1:], getenv, stdout, stderr)
	}
	if p.Back != nil && len(args) > 0 && args[0] == "back" {
		return p.migrate(ctx, p.Back, args[1:], getenv, stdout, stderr)
	}
	c, err := ParseConfig(p.Name, args, getenv, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return ExitOK
	case err != nil:
		return ExitMisuse
	}
	if err := p.serve(ctx, c, getenv, stdout, slog.New(slog.NewTextHandler(stderr, nil))); err != nil {
		_ = complain(stderr, p.Name, err)
		return ExitFailed
	}
	return ExitOK
}

func (p Program) serve(ctx context.Context, c Config, getenv func(string) string, stdout io.Writer, log *slog.Logger) error {
	h, err := p.Open(c, log)
	if err != nil {
		return err
	}
	ln, err := listen(c.Listen, getenv)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: listening on %s\n", p.Name, ln.Addr())
	return Serve(ctx, ln, counted(h, c.FailEvery), c.DrainTimeout)
}

// Serve answers calls until ctx ends; then it takes no new ones, and returns
// when those that were under way have been answered, or cuts them after drain.
// It closes ln.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, drain time.Duration) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := srv.Shutdown(limit)
	if err != nil {
		err = errors.Join(fmt.Errorf("calls that went on for %v after the signal were cut: %w", drain, err), srv.Close())
	}
	<-ended
	return err
}

// migrate is the subcommands: the folders come from the environment.
func (p Program) migrate(ctx context.Context, by func(ctx context.Context, from, to string) (int, error), args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	from, to := getenv("MOULT_OLD"), getenv("MOULT_NEW")
	if len(args) > 0 {
		_ = complain(stderr, p.Name, fmt.Errorf("migrate: unexpected argument %q: the folders come from $MOULT_OLD and $MOULT_NEW", args[0]))
		return ExitMisuse
	}
	if from == "" || to == "" {
		_ = complain(stderr, p.Name, errors.New("migrate: set $MOULT_OLD to the folder of the old state and $MOULT_NEW to the one for the new"))
		return ExitMisuse
	}
	n, err := migrateFolder(ctx, by, from, to)
	if err != nil {
		_ = complain(stderr, p.Name, fmt.Errorf("migrate from %s to %s, after %d objects: %w", from, to, n, err))
		return ExitFailed
	}
	fmt.Fprintf(stdout, "%s: migrated %d objects\n", p.Name, n)
	return ExitOK
}

// migrateFolder refuses to migrate a folder into itself, which would begin by
// emptying it.
func migrateFolder(ctx context.Context, by func(ctx context.Context, from, to string) (int, error), from, to string) (int, error) {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return 0, err
	}
	a, err := os.Stat(from)
	if err != nil {
		return 0, err
	}
	b, err := os.Stat(to)
	if err != nil {
		return 0, err
	}
	if os.SameFile(a, b) {
		return 0, errors.New("they are the same folder")
	}
	return by(ctx, from, to)
}
