package schedule

import (
	"fmt"
	"strings"
)

// Said is what a condition says. Text is what it has seen, or why it says nothing, for
// people.
type Said struct {
	Answer
	Text string
}

// Answer is yes or no, or none: where what a condition needs is not known.
type Answer int

// The answers of a condition.
const (
	AnswerNone Answer = iota
	AnswerNo
	AnswerYes
	AnswerUnread // the condition cannot be read here: its answer may be any
)

func (d *decision) ask(condition string) Said {
	if d.Ask == nil {
		return Said{Text: "no fact is known here"}
	}
	return d.Ask(d.Class, d.Self, condition)
}

// heldBack makes it wait while HoldIf is true, or cannot be read. Where that says nothing it holds nobody back,
// for before the first nodes have settled there is nothing that it could say; once some
// have, that is told.
func (d *decision) heldBack() (Decision, bool) {
	if d.class.HoldIf == "" || d.now || d.order.Back() {
		return Decision{}, false
	}
	said := d.ask(d.class.HoldIf)
	if said.Answer == AnswerYes {
		text := fmt.Sprintf("the rollout of class %s is held, since %s: %s", d.Class, oneLine(d.class.HoldIf), said.Text)
		return wait(CodeHoldIf, text, d.nowCommand()), true
	}
	if said.Answer == AnswerUnread {
		return wait(CodeHoldIf, fmt.Sprintf("it waits, for what may hold it, %s, is not known: %s", oneLine(d.class.HoldIf), said.Text), d.nowCommand()), true
	}
	if said.Answer == AnswerNone && d.anySettled() {
		d.unheld = fmt.Sprintf("hold_if (%s) holds nothing back: %s", oneLine(d.class.HoldIf), said.Text)
	}
	return Decision{}, false
}

func (d *decision) anySettled() bool {
	for _, m := range d.class.members() {
		if rec, ok := d.Lookup(m.id); ok && d.order.Arrived(rec) {
			return true
		}
	}
	return false
}

// awaited makes it wait until When is true; that it says nothing is no leave to go.
func (d *decision) awaited() (Decision, bool) {
	if d.class.When == "" || d.now || d.order.Back() {
		return Decision{}, false
	}
	said := d.ask(d.class.When)
	if said.Answer == AnswerYes {
		return Decision{}, false
	}
	return wait(CodeWhen, fmt.Sprintf("it waits until %s: %s", oneLine(d.class.When), said.Text), d.nowCommand()), true
}

// oneLine is a condition among words.
func oneLine(condition string) string { return strings.Join(strings.Fields(condition), " ") }
