package main

import (
	"bytes"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

const defaultExpiry = 365 * 24 * time.Hour

func trustCommand() *cli.Command {
	expires := &cli.DurationFlag{Name: "expires", Value: defaultExpiry, Usage: "how long the metadata is good, such as 8760h"}
	fresh := &cli.DurationFlag{Name: "fresh", Usage: "how long a timestamp is good from now on, such as 2h: peers that hear of no newer one start nothing after that, so refresh more often (0: as long as all else)"}
	return &cli.Command{
		Name:  "trust",
		Usage: "make and look after the keys and the signed metadata",
		Subcommands: []*cli.Command{
			{
				Name:      "init",
				Usage:     "make the keys of root, publisher and operator, the ring's secret, and the first root",
				ArgsUsage: "FOLDER",
				Flags:     []cli.Flag{expires},
				Action: func(c *cli.Context) error {
					dir, err := oneArg(c, "the folder to make")
					if err != nil {
						return err
					}
					lasts, err := positive(c, "expires")
					if err != nil {
						return err
					}
					if err := trust.Init(dir, trust.InitOptions{Now: time.Now(), Expires: lasts}); err != nil {
						return err
					}
					return describeTrust(c, dir)
				},
			},
			{
				Name:  "rotate",
				Usage: "replace a role's key by a new one, signed by the root key",
				Flags: []cli.Flag{trustFlag(), &cli.StringFlag{Name: "role", Usage: "`ROLE` whose key is replaced: publisher, operator or root"}},
				Action: func(c *cli.Context) error {
					role := c.String("role")
					rotate := map[string]func(*trust.Folder) error{
						"publisher": (*trust.Folder).RotatePublisher, "operator": (*trust.Folder).RotateOperator, "root": (*trust.Folder).RotateRoot,
					}[role]
					if rotate == nil {
						return misusef("use --role publisher, operator or root", "there is no role %q to rotate", role)
					}
					return withTrust(c, func(f *trust.Folder) error {
						if err := rotate(f); err != nil {
							return err
						}
						return signedAnew(c, f)
					})
				},
			},
			{
				Name:   "refresh",
				Usage:  "sign the metadata again with a later expiry",
				Flags:  []cli.Flag{trustFlag(), fresh, &cli.DurationFlag{Name: "expires", Usage: "how long the metadata is good, such as 8760h; as long as the folder was made for, if not given"}},
				Action: refreshTrust,
			},
			{
				Name:  "push",
				Usage: "hand refreshed or rotated metadata to an agent",
				Flags: []cli.Flag{agentFlag(), trustFlag(), &cli.BoolFlag{Name: "accept-jump",
					Usage: "sign above the agent's version numbers also where keys that were replaced have run ahead with them"}},
				Action: func(c *cli.Context) error {
					return withTrust(c, func(f *trust.Folder) error { return pushTrust(c, f) })
				},
			},
		},
	}
}

func refreshTrust(c *cli.Context) error {
	var lasts time.Duration
	if c.IsSet("expires") {
		var err error
		if lasts, err = positive(c, "expires"); err != nil {
			return err
		}
	}
	if c.Duration("fresh") < 0 {
		return misusef(seeHelp(c), "--fresh %v: want a time such as 2h, or 0", c.Duration("fresh"))
	}
	return withTrust(c, func(f *trust.Folder) error {
		if c.IsSet("fresh") {
			if err := f.KeepFresh(c.Duration("fresh")); err != nil {
				return err
			}
		}
		if err := f.Refresh(lasts); err != nil {
			return err
		}
		return signedAnew(c, f)
	})
}

func withTrust(c *cli.Context, do func(*trust.Folder) error) error {
	if err := noArgs(c); err != nil {
		return err
	}
	f, err := openTrust(c)
	if err != nil {
		return err
	}
	defer f.Close()
	return do(f)
}

// signedAnew tells what to do with metadata that were just signed. Their
// expiry is the earliest of all files, those included whose key is elsewhere.
func signedAnew(c *cli.Context, f *trust.Folder) error {
	say(c, "good until %s; `moult trust push` hands it to an agent", f.Current().Expires().Format(time.RFC3339))
	return nil
}

func describeTrust(c *cli.Context, dir string) error {
	f, err := trust.OpenFolder(dir, time.Now())
	if err != nil {
		return err
	}
	defer f.Close()
	if o := outcomeOf(c); o != nil {
		o.File = dir
		say(c, "cluster %s is made: every agent gets root.json and gossip.key", bundle.Sum(f.FirstRoot()).Short())
		return nil
	}
	w := c.App.Writer
	fmt.Fprintf(w, "cluster      %s\n", bundle.Sum(f.FirstRoot()).Short())
	fmt.Fprintf(w, "first root   %s/root.json   give it to every agent\n", dir)
	fmt.Fprintf(w, "ring secret  %s/gossip.key  give it to every agent, and to nobody else\n", dir)
	fmt.Fprintf(w, "keys         %s/keys        keep root.pem offline; publisher.pem and operator.pem with those who use them\n", dir)
	fmt.Fprintf(w, "good until   %s\n", f.Current().Expires().Format(time.DateOnly))
	return nil
}

// pushTrust hands an agent what the folder has, on top of what the agent has.
func pushTrust(c *cli.Context, f *trust.Folder) error {
	api := client(c)
	peer, err := api.Trust(c.Context)
	if err != nil {
		return err
	}
	absorb := operator.New(f).Absorb
	if c.Bool("accept-jump") {
		absorb = operator.New(f).AbsorbJump
	}
	if err := absorb(peer.Set); err != nil {
		return err
	}
	set, err := f.Current().Set().Marshal()
	if err != nil {
		return err
	}
	late := operator.New(f).Late(peer)
	if bytes.Equal(set, peer.Set) && len(late) == 0 {
		say(c, "the agent has these metadata already")
		return nil
	}
	besides, err := operator.New(f).Besides(peer.Set, 0)
	if err != nil {
		return err
	}
	members, _ := f.SignedMembers() // the agent may not have them
	accepted, err := api.Accept(c.Context, control.Signed{Set: set, Orders: late, Members: members})
	if err != nil {
		return err
	}
	printNotes(c, besides)
	say(c, "%s", accepted.Message)
	return nil
}
