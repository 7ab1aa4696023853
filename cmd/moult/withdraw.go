package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/operator"
	"moult/cmd/moult/internal/screen"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

func withdrawCommand() *cli.Command {
	return &cli.Command{
		Name: "withdraw", Usage: "give up what a release does to a class, so that the next one goes around it", ArgsUsage: "VERSION",
		Description: "For a release that no node can get past: its transform fails on their data, say. Its\n" +
			"rollout is aborted, and so are those of newer releases, which build on it. Once every node\n" +
			"has said that it has not been let in to any of them, and knows, they are withdrawn, for good:\n" +
			"the next release takes the class from the version before.",
		Flags: []cli.Flag{agentFlag(), trustFlag(), timeoutFlag(time.Minute),
			&cli.StringFlag{Name: "class", Usage: "the `CLASS` that cannot get past it"},
			&cli.BoolFlag{Name: "yes", Usage: "do not ask"}},
		Action: withdraw,
	}
}

func withdraw(c *cli.Context) error {
	if _, err := oneArg(c, "the number of a release"); err != nil {
		return err
	}
	n, err := versionArg(c)
	if err != nil {
		return err
	}
	timeout, err := positive(c, "timeout")
	if err != nil {
		return err
	}
	class := bundle.Class(c.String("class"))
	if class == "" {
		return misusef("`moult status` shows the class of each node", "withdraw takes the class that cannot get past the release: --class CLASS")
	}
	folder, err := openTrust(c)
	if err != nil {
		return err
	}
	defer folder.Close()
	ctx, cancel := context.WithTimeout(c.Context, timeout)
	defer cancel()
	from, accepted, err := operator.New(folder).Withdraw(ctx, client(c), operator.Withdrawal{
		Class: class, Release: n,
		Confirm: func(last bundle.Version, aborts []bundle.Version) error {
			return confirmWithdraw(c, class, n, last, aborts)
		},
		Waits: func(text string) { printNotes(c, []string{"it waits for " + text}) },
	})
	if err != nil {
		return err
	}
	say(c, "%s", accepted.Message)
	say(c, "the next release takes class %s from version %d: build it with from = %d, and inject it", class, from, from)
	made(c, n, bundle.Digest{})
	return nil
}

// confirmWithdraw has a person say what the withdrawal ends.
func confirmWithdraw(c *cli.Context, class bundle.Class, first, last bundle.Version, aborts []bundle.Version) error {
	what := fmt.Sprintf("withdraw release %d for class %s, for good", first, class)
	if last > first {
		what = fmt.Sprintf("withdraw releases %d to %d for class %s, for good", first, last, class)
	}
	for _, v := range aborts {
		what += fmt.Sprintf(", and abort the rollout of release %d for every class", v)
	}
	return confirm(c, what, fmt.Sprintf("moult withdraw --yes --class %s %d", class, first), "`moult status` shows how far its rollout is")
}

// confirm has a person say that something is meant, unless --yes says so. unasked is the
// command that does not ask, and otherwise tells what else there is.
func confirm(c *cli.Context, what, unasked, otherwise string) error {
	if c.Bool("yes") {
		return nil
	}
	if in, ok := c.App.Reader.(*os.File); !ok || !screen.IsTerminal(in) {
		return misusef(fmt.Sprintf("`%s` does it without asking; %s", unasked, otherwise), "%s: nobody is there to confirm it", what)
	}
	fmt.Fprintf(c.App.ErrWriter, "moult: %s. Type yes to do so: ", what)
	answer, err := bufio.NewReader(io.LimitReader(c.App.Reader, 100)).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != "yes" {
		return failedf(otherwise, "%s: not confirmed, so nothing was done", commandName(c))
	}
	return nil
}

// knownWithdrawn is what is known to be withdrawn: by the orders that the trust folder has
// signed, if there is one, and by those at the agent, if there is one to ask.
func knownWithdrawn(c *cli.Context, folder *trust.Folder) (bundle.Withdrawn, error) {
	orders := map[bundle.Version][]byte{}
	if folder != nil {
		for _, v := range folder.Current().Orders() {
			if data, ok := folder.OrderInForce(v); ok {
				orders[v] = data
			}
		}
	}
	all, err := operator.Withdrawn(orders)
	if err != nil {
		return nil, fmt.Errorf("read the rollout orders of the trust folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(c.Context, askTimeout)
	defer cancel()
	api := client(c)
	defer api.Close()
	peer, err := api.Trust(ctx)
	if err != nil {
		return all, c.Context.Err() // there is none to ask
	}
	more, err := operator.Withdrawn(peer.Orders)
	if err != nil {
		return nil, fmt.Errorf("read the agent's rollout orders: %w", err)
	}
	for _, w := range more {
		all = all.With(w)
	}
	return all, nil
}
