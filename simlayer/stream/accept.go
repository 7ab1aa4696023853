package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"
)

// Listen listens at host:port over TCP.
func Listen(ctx context.Context, addr string) (*net.TCPListener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, ListenError(addr, err)
	}
	return ln.(*net.TCPListener), nil
}

// ListenError is err, of an attempt to listen at addr, with what to do.
func ListenError(addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s is in use: stop the program that has it, or configure another address: %w", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s is no address of this machine: %w", addr, err)
	}
	return fmt.Errorf("%s: %w", addr, err)
}

// Accept gives each connection that comes to ln to take, one after the other, until
// ln is closed or ctx ends: the error is net.ErrClosed then. Any other failure, such
// as too many open files, may pass, and is waited for.
func Accept(ctx context.Context, ln net.Listener, log *slog.Logger, take func(net.Conn)) error {
	pause := minPause
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			pause = minPause
			take(c)
			continue
		case errors.Is(err, net.ErrClosed) || ctx.Err() != nil:
			return net.ErrClosed
		}
		log.Warn("a caller cannot be accepted; it is tried again", "err", err, "in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		pause = min(2*pause, maxPause)
	}
}
