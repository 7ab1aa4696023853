package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/cmd/moult/internal/plan"
	"moult/cmd/moult/internal/web"
	"moult/store/bundle/trust"
)

func uiCommand() *cli.Command {
	return &cli.Command{
		Name:  "ui",
		Usage: "serve a page of the cluster to a browser on this machine",
		Description: "Prints an address that is good once, for one browser; the page is served until the command is\n" +
			"interrupted. It changes nothing: with --allow-orders, and the operator's key in the trust\n" +
			"folder, it can pause, resume and abort the rollout, and skip and retry nodes.",
		Flags: []cli.Flag{agentFlag(), trustFlag(),
			&cli.BoolFlag{Name: "allow-orders", Usage: "let the page give orders, signed with the keys of the trust folder"},
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "the `ADDRESS` of this machine to serve it on; port 0: any that is free"},
		},
		Action: showUI,
	}
}

func showUI(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	api := client(c)
	defer api.Close()
	if err := answers(c.Context, api); err != nil { // a page of nothing would only be asked why
		return err
	}
	var orders web.Orders
	if c.Bool("allow-orders") {
		folder, err := openTrust(c) // for what is wrong with it to be told now
		if err != nil {
			return err
		}
		if err := folder.Close(); err != nil {
			return err
		}
		orders = web.Operator{API: api, Open: func() (*trust.Folder, error) { return openTrust(c) }}
	}
	page, err := servePage(c.String("listen"), api, orders)
	if err != nil {
		return err
	}
	fmt.Fprintln(c.App.Writer, page.Address())
	fmt.Fprintln(c.App.ErrWriter, "moult: open this address in a browser on this machine; it is good once. Interrupt the command to end it")
	select {
	case <-c.Context.Done():
	case err = <-page.Ended():
	}
	return errors.Join(err, page.Close())
}

// answers tells why an agent does not.
func answers(ctx context.Context, api *control.Client) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := api.Info(ctx)
	return err
}

// servePage serves a page of an agent on an address of this machine; orders may be nil.
func servePage(address string, api *control.Client, orders web.Orders) (*web.Server, error) {
	if err := web.CheckAddress(address); err != nil {
		return nil, misusef("name one of this machine alone, such as 127.0.0.1:0; from elsewhere come by ssh -L", "serve the page: %w", err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, failedf("--listen 127.0.0.1:0 takes a port that is free", "serve the page: %w", err)
	}
	return web.Serve(l, web.Config{
		Agent: api, Orders: orders,
		Release: func(ctx context.Context) (any, error) { return plan.InForce(ctx, api) },
	}, slog.New(slog.DiscardHandler)), nil
}
