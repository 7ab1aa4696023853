package view

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"moult/store/bundle"
)

var writeVectors = flag.Bool("write-vectors", false, "write the vectors that testdata does not have yet")

// fullRecord says all that a record can say.
func fullRecord() Record {
	return Record{
		Name: "n1.example", Class: "kv", Seq: 1 << 60, Addr: "[2001:db8::1]:7946",
		Version: 2, Target: 3, Running: 2, Phase: "rolling back", Progress: 0.25, Reason: "exit status 1: <disk & memory>",
		Since: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Obeys: 3, Ended: Ended{Release: 3, Count: 2}, Held: true,
		Health: Health{State: HealthFailing, Reason: "no answer", Soaked: 2, Failed: Ended{Release: 3, Count: 1}},
		Services: map[string]ServiceAddr{"api": {
			Public: "10.0.0.5:7000", Versions: map[bundle.Version]string{2: "10.0.0.5:7001", 10: "10.0.0.5:7002"},
			Native: 2, Attach: "relay", Egress: "proxy", Protocol: "http",
		}},
		Labels: map[string]string{"zone": "a"}, Platform: bundle.Platform{OS: "linux", Arch: "amd64"},
		Trust: Heads{Root: 1, Timestamp: 7, Head: 3}, Alarms: []string{"disk is nearly full"}, Left: true,
		Joined: bundle.Sum([]byte("order")), Reads: 2,
	}
}

func TestSignOpen(t *testing.T) {
	want := fullRecord()
	s, err := Sign(keyOf("n1"), want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Open(s)
	if err != nil {
		t.Fatal(err)
	}
	want.Key, want.Node = keyOf("n1").Public().(ed25519.PublicKey), idOf("n1")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var viaJSON Signed
	if err := json.Unmarshal(text, &viaJSON); err != nil || viaJSON != s {
		t.Errorf("JSON changed the record: %v", err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "\t"); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(indented.Bytes(), &viaJSON); err != nil || viaJSON != s {
		t.Errorf("an encoder on the way changed the record: %v", err)
	}
	data, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ParseSigned(data); err != nil || back != s || len(data) != s.Size() {
		t.Errorf("the binary form changed the record: %v", err)
	}
}

func TestSignTidiesWordsForPeople(t *testing.T) {
	r := Record{Name: "n1", Class: "kv", Seq: 1, Phase: "held",
		Reason: "panic:\n\x1b[31mtab\t" + strings.Repeat("é", MaxReasonBytes) + "\xff",
		Alarms: make([]string, MaxAlarms+3)}
	r.Alarms[0] = "\x00" + strings.Repeat("x", MaxAlarmBytes)
	s, err := Sign(keyOf("n1"), r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Open(s)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Reason) > MaxReasonBytes || !strings.HasPrefix(got.Reason, "panic:  [31mtab é") || !strings.HasSuffix(got.Reason, "é…") || !utf8.ValidString(got.Reason) {
		t.Errorf("reason: %q", got.Reason)
	}
	if len(got.Alarms) != MaxAlarms || len(got.Alarms[0]) > MaxAlarmBytes {
		t.Errorf("alarms: %q", got.Alarms)
	}
	if len(r.Alarms) != MaxAlarms+3 || r.Alarms[0][0] != 0 {
		t.Error("the caller's record has changed")
	}
}

func TestSignRefuses(t *testing.T) {
	for want, f := range map[string]func(*Record){
		"name":          func(r *Record) { r.Name = "a b" },
		"class":         func(r *Record) { r.Class = "KV" },
		"seq":           func(r *Record) { r.Seq = 0 },
		"addr":          func(r *Record) { r.Addr = "a\x1b[0m:1" },
		"version":       func(r *Record) { r.Version = bundle.MaxVersion + 1 },
		"obeys":         func(r *Record) { r.Obeys = bundle.MaxVersion + 1 },
		"ended":         func(r *Record) { r.Ended = Ended{Count: 1} },
		"ended.count":   func(r *Record) { r.Ended.Count = -1 },
		"phase":         func(r *Record) { r.Phase = "Held\n" },
		"progress":      func(r *Record) { r.Progress = 1.5 },
		"since":         func(r *Record) { r.Since = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"services":      func(r *Record) { r.Services["A"] = ServiceAddr{} },
		"public":        func(r *Record) { r.Services["api"] = ServiceAddr{Public: " "} },
		"labels":        func(r *Record) { r.Labels[""] = "" },
		"platform":      func(r *Record) { r.Platform.OS = "Plan 9" },
		"trust":         func(r *Record) { r.Trust.Root = -1 },
		"too long":      func(r *Record) { r.Labels = manyLabels(MaxLabels) },
		"labels: 65 of": func(r *Record) { r.Labels = manyLabels(MaxLabels + 1) },
	} {
		r := fullRecord()
		f(&r)
		if _, err := Sign(keyOf("n1"), r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	if _, err := Sign(nil, fullRecord()); err == nil {
		t.Error("signed without a key")
	}
}

func manyLabels(n int) map[string]string {
	labels := map[string]string{}
	for i := range n {
		labels[fmt.Sprintf("%0*d", MaxLabelBytes, i)] = strings.Repeat("x", MaxLabelBytes)
	}
	return labels
}

// vector is one file of testdata/vectors: a record, and what Open says to it.
// Files are never changed: they are what other versions of moult wrote.
type vector struct {
	Want   string `json:"want"` // a key of classes; empty: it opens
	Note   string `json:"note"`
	Signed Signed `json:"signed"`
}

func classes() map[string]error {
	return map[string]error{
		"": nil, "too long": ErrTooLong, "malformed": ErrMalformed, "too new": ErrTooNew, "signature": ErrSignature, "invalid": ErrInvalid,
	}
}

func TestVectors(t *testing.T) {
	if *writeVectors {
		writeMissing(t)
	}
	files, err := filepath.Glob("testdata/vectors/*.json")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d vectors: %v", len(files), err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var v vector
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		want, ok := classes()[v.Want]
		if !ok {
			t.Fatalf("%s: %q is no class", file, v.Want)
		}
		seen[v.Want] = true
		if _, err := Open(v.Signed); !errors.Is(err, want) {
			t.Errorf("%s (%s): got %v, want %q", file, v.Note, err, v.Want)
		}
		if changed, err := New(nil).Merge(v.Signed); (len(changed) == 1) != (v.Want == "") || (err == nil) != (v.Want == "") {
			t.Errorf("%s: a view took %d of it: %v", file, len(changed), err)
		}
	}
	for class := range classes() {
		if !seen[class] && class != "too long" { // that cannot even be decoded
			t.Errorf("no vector for %q", class)
		}
	}
}

func writeMissing(t *testing.T) {
	key := keyOf("vector")
	full, err := Sign(key, fullRecord())
	if err != nil {
		t.Fatal(err)
	}
	least, err := Sign(key, Record{Name: "n1", Class: "kv", Seq: 1, Phase: "current"})
	if err != nil {
		t.Fatal(err)
	}
	ill := Record{Name: "n1", Class: "kv", Seq: 1, Phase: "current", Version: 2, Running: 2, Health: Health{
		State: HealthRestarting, Reason: "it has ended by itself: exit status 3", Soaked: 1, Failed: Ended{Release: 2, Count: 1},
	}}
	unwell, err := Sign(key, ill)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(s Signed, old, new string) Signed {
		if !strings.Contains(s.record, old) {
			t.Fatalf("%s is not in %s", old, s.record)
		}
		return seal(key, []byte(strings.Replace(s.record, old, new, 1)))
	}
	unsigned := changed(least, `"seq":1`, `"seq":2`)
	unsigned.signature = least.signature
	stolen := least
	stolen.signature = seal(keyOf("other"), []byte(least.record)).signature
	for name, v := range map[string]vector{
		"least":            {"", "the least that a record can say", least},
		"full":             {"", "all that this version can say", full},
		"joined":           {"", "it has an order that joined two, and all that version 2 of what it reads can say", full},
		"unwell":           {"", "its software is not well, and failed in its soak", unwell},
		"unknown-health":   {"", "a newer moult has another word for health", changed(unwell, `"restarting"`, `"radiant"`)},
		"loud-health":      {"invalid", "a word for health that disturbs terminals", changed(unwell, `"restarting"`, `"\u001b[2J"`)},
		"failed-nowhere":   {"invalid", "a soak that failed at no release", changed(unwell, `"count":1,"release":2`, `"count":1,"release":0`)},
		"unknown-fields":   {"", "a newer moult says more", changed(least, `"seq":1`, `"seq":1,"zzz":{"a":[1,null]}`)},
		"unknown-phase":    {"", "a newer moult has another phase", changed(least, `"current"`, `"dreaming"`)},
		"newer-format":     {"too new", "format 2", changed(least, `"format":1`, `"format":2`)},
		"no-format":        {"malformed", "no format", changed(least, `"format":1,`, ``)},
		"no-object":        {"malformed", "null", seal(key, []byte("null"))},
		"empty":            {"malformed", "nothing", seal(key, nil)},
		"space":            {"malformed", "a space", changed(least, `"seq":1`, `"seq": 1`)},
		"twice":            {"malformed", "a field twice", changed(least, `"seq":1`, `"seq":1,"seq":1`)},
		"unsorted":         {"malformed", "fields in another order", changed(changed(least, `,"seq":1`, ``), `{`, `{"seq":1,`)},
		"escaped":          {"malformed", "a letter in another form", changed(least, `"n1"`, `"n\u0031"`)},
		"more-after":       {"malformed", "more after the end", changed(least, `"seq":1}`, `"seq":1}{}`)},
		"negative":         {"malformed", "a negative number", changed(least, `"seq":1`, `"seq":-1`)},
		"upper-case-node":  {"malformed", "the identity in upper case", changed(least, `"node":"`, `"node":"A`)},
		"changed":          {"signature", "changed after signing", unsigned},
		"stolen":           {"signature", "signed by another node", stolen},
		"other-node":       {"signature", "the identity of another node", changed(least, idOf("vector").String(), idOf("other").String())},
		"seq-0":            {"invalid", "number 0", changed(least, `"seq":1`, `"seq":0`)},
		"escape-sequence":  {"invalid", "a name that disturbs terminals", changed(least, `"n1"`, `"\u001b[2J"`)},
		"local-time":       {"invalid", "a time that is not in UTC", changed(full, `05.000006Z`, `05.000006+01:00`)},
		"progress-2":       {"invalid", "more than all", changed(full, `"progress":0.25`, `"progress":2`)},
		"version-too-high": {"invalid", "version 1,000,000,001", changed(full, `"version":2`, `"version":1000000001`)},
	} {
		path := filepath.Join("testdata/vectors", name+".json")
		if _, err := os.Stat(path); err == nil {
			continue
		}
		var data bytes.Buffer
		enc := json.NewEncoder(&data)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTooLong(t *testing.T) {
	long := seal(keyOf("n1"), bytes.Repeat([]byte("x"), MaxRecordBytes+1))
	if _, err := Open(long); !errors.Is(err, ErrTooLong) {
		t.Errorf("Open: %v", err)
	}
	data, _ := long.Marshal()
	if _, err := ParseSigned(data); !errors.Is(err, ErrTooLong) {
		t.Errorf("ParseSigned: %v", err)
	}
	data, _ = json.Marshal(long)
	if err := json.Unmarshal(data, new(Signed)); !errors.Is(err, ErrTooLong) {
		t.Errorf("UnmarshalJSON: %v", err)
	}
}

func TestDecodingRefuses(t *testing.T) {
	if _, err := ParseSigned(make([]byte, 63)); !errors.Is(err, ErrMalformed) {
		t.Errorf("63 bytes: %v", err)
	}
	if _, err := ParseSigned(append(make([]byte, 64), 0xff)); !errors.Is(err, ErrMalformed) {
		t.Errorf("not UTF-8: %v", err)
	}
	for _, text := range []string{`1`, `{}`, `{"record":"{}","signature":"AAAA"}`} {
		if err := json.Unmarshal([]byte(text), new(Signed)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := Open(Signed{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("the zero Signed: %v", err)
	}
}

// TestUnknownFieldsAreRelayed shows that an older agent passes on what it does
// not understand.
func TestUnknownFieldsAreRelayed(t *testing.T) {
	old := sign(t, "n1", 1, "")
	newer := seal(keyOf("n1"), []byte(strings.NewReplacer(`"seq":1`, `"seq":2`, `"version":1}`, `"version":1,"wings":2}`).Replace(old.record)))
	v := New(nil)
	if _, err := v.Merge(old, newer); err != nil {
		t.Fatal(err)
	}
	send, _ := v.Snapshot().Missing(bucketOf(idOf("n1")), nil)
	if len(send) != 1 || send[0] != newer || !strings.Contains(send[0].record, `"wings":2`) {
		t.Errorf("sent on: %+v", send)
	}
}

// TestEveryByteMatters flips a bit in each byte of a record and its signature.
func TestEveryByteMatters(t *testing.T) {
	data, err := sign(t, "n1", 1, "x").Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		data[i] ^= 1 << (i % 8)
		if s, err := ParseSigned(data); err == nil {
			if _, err := Open(s); err == nil {
				t.Fatalf("bit %d of byte %d does not matter", i%8, i)
			}
		}
		data[i] ^= 1 << (i % 8)
	}
}

func FuzzOpen(f *testing.F) {
	files, err := filepath.Glob("testdata/vectors/*.json")
	if err != nil || len(files) == 0 {
		f.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		var v vector
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		if err := json.Unmarshal(data, &v); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(v.Signed.record), false)
	}
	f.Add([]byte(sign(f, "n1", 7, "why").record), true)
	f.Add([]byte(sign(f, "n2", 7, "why").record), true)
	key := keyOf("n1")
	f.Fuzz(func(t *testing.T, record []byte, signed bool) {
		s, err := ParseSigned(append(make([]byte, 64), record...))
		if err != nil {
			return
		}
		if signed { // else the parser would never be passed
			s = seal(key, record)
		}
		r, err := Open(s)
		if err != nil {
			return
		}
		if !signed || r.Node != idOf("n1") {
			t.Fatalf("%q opened without its node's signature", record)
		}
		if again, err := canonical(record); err != nil || !bytes.Equal(again, record) {
			t.Fatalf("%q is not canonical: %q, %v", record, again, err)
		}
		// What opens can be said again, and then says the same.
		copied, err := Sign(key, r)
		if errors.Is(err, ErrTooLong) {
			return // other escapes may take more room
		}
		if err != nil {
			t.Fatalf("%+v opened, but cannot be signed: %v", r, err)
		}
		if back, err := Open(copied); err != nil || !reflect.DeepEqual(back, normal(r)) {
			t.Fatalf("%+v became %+v: %v", r, back, err)
		}
	})
}

// normal gives absent and empty fields one form.
func normal(r Record) Record {
	data, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	var n Record
	if err := json.Unmarshal(data, &n); err != nil {
		panic(err)
	}
	return n
}

// TestMemoSigns: what a memo remembers of a record that was signed is what others read.
func TestMemoSigns(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	long := fullRecord() // to be cut, and shortened
	long.Reason = strings.Repeat("\u2028", MaxReasonBytes)
	long.Alarms = slices.Repeat([]string{strings.Repeat("\u2028", MaxAlarmBytes)}, MaxAlarms)
	for _, r := range []Record{fullRecord(), {Name: "n1", Class: "kv", Seq: 1, Phase: Current, Services: map[string]ServiceAddr{}}, long} {
		var m Memo
		s, err := m.Sign(key, r)
		if err != nil {
			t.Fatal(err)
		}
		read, err := Open(s)
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := m.find(s); !ok || !reflect.DeepEqual(normal(e.record), normal(read)) || e.stamp != (Stamp{read.Node, read.Seq, s.Sum()}) {
			t.Errorf("the memo has %+v, and others read %+v", e, read)
		}
	}
}

// TestSaysAs: each field counts but the number and the time, also one that is new, and those of
// fields.
func TestSaysAs(t *testing.T) {
	counts := func(says func() bool, fields reflect.Value, but ...string) {
		for f, v := range fields.Fields() {
			before := reflect.New(v.Type()).Elem()
			before.Set(v)
			other := v
			for other.Kind() == reflect.Struct && other.Type() != reflect.TypeFor[time.Time]() {
				other = other.Field(other.NumField() - 1) // the last of what is compared whole
			}
			switch other.Kind() {
			case reflect.String:
				other.SetString(other.String() + "x")
			case reflect.Bool:
				other.SetBool(!other.Bool())
			case reflect.Int, reflect.Int64:
				other.SetInt(other.Int() + 1)
			case reflect.Uint64:
				other.SetUint(other.Uint() + 1)
			case reflect.Float64:
				other.SetFloat(other.Float() + 0.5)
			case reflect.Slice:
				other.Set(reflect.Append(reflect.AppendSlice(reflect.Zero(other.Type()), other), reflect.Zero(other.Type().Elem())))
			case reflect.Map:
				more := reflect.MakeMap(other.Type())
				more.SetMapIndex(reflect.Zero(other.Type().Key()), reflect.Zero(other.Type().Elem()))
				other.Set(more)
			case reflect.Array:
				other.Index(0).SetUint(other.Index(0).Uint() + 1)
			default:
				other.Set(reflect.ValueOf(time.Unix(1, 0)))
			}
			if says() != slices.Contains(but, f.Name) {
				t.Errorf("%s: two records that differ in it say the same: %v", f.Name, says())
			}
			v.Set(before)
		}
	}
	one, other := fullRecord(), fullRecord()
	one.Facts, other.Facts = map[string]Fact{"a": {}}, map[string]Fact{"a": {}}
	says := func() bool { return one.SaysAs(&other) }
	if !says() {
		t.Fatal("a record does not say what it says")
	}
	counts(says, reflect.ValueOf(&other).Elem(), "Seq", "Since")
	counts(says, reflect.ValueOf(&other.Enrolment).Elem())
	api, same := one.Services["api"], one.Services["api"]
	counts(func() bool { return same.Equal(api) }, reflect.ValueOf(&same).Elem())
}

// TestWordsGiveWay: words for people, whatever they are, keep no record from being published.
func TestWordsGiveWay(t *testing.T) {
	for _, letter := range []string{"x", `"`, "<", "\u2028", "é"} {
		long := func(most int) string { return strings.Repeat(letter, most) }
		r := Record{Name: "n1", Class: "kv", Seq: 1, Phase: Current, Reason: long(MaxReasonBytes), Facts: map[string]Fact{},
			Health:    Health{State: HealthFailing, Reason: long(MaxReasonBytes)},
			Rehearsed: Rehearsal{Release: 2, Outcome: RehearsalFailed, Reason: long(MaxReasonBytes)},
		}
		for range MaxAlarms {
			r.Alarms = append(r.Alarms, long(MaxAlarmBytes))
		}
		for i := range bundle.MaxFacts {
			r.Facts[fmt.Sprint("f", i)] = Fact{State: FactNoAnswer, Reason: long(MaxFactBytes)}.Tidy()
		}
		before := r.Facts["f0"]
		s, err := Sign(keyOf("n1"), r)
		if err != nil {
			t.Errorf("%q: %v", letter, err)
			continue
		}
		if got, err := Open(s); err != nil || len(got.Alarms) != MaxAlarms || got.Facts["f0"].State != FactNoAnswer || got.Reason == "" || r.Facts["f0"] != before {
			t.Errorf("%q: %+v %v", letter, got, err)
		}
	}
}

func TestFactsInRecords(t *testing.T) {
	r := Record{Name: "n1", Class: "kv", Seq: 1, Phase: Current, Facts: map[string]Fact{
		"height": {Value: 1.2e21}, "errors": {Value: 0.1}, "queue": {State: FactNoAnswer, Reason: "connection refused"}, "odd": {State: "from the future"},
	}}
	s, err := Sign(keyOf("n1"), r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Open(s)
	if err != nil || !reflect.DeepEqual(got.Facts, r.Facts) {
		t.Fatalf("%+v %v", got.Facts, err)
	}
	for name, ok := range map[string]bool{"height": true, "queue": false, "odd": false} {
		if _, known := got.Facts[name].Known(); known != ok {
			t.Errorf("%s is known: %t", name, known)
		}
	}
	many := map[string]Fact{}
	for i := range bundle.MaxFacts + 1 {
		many[fmt.Sprint("f", i)] = Fact{}
	}
	for want, facts := range map[string]map[string]Fact{
		"facts: 9":       many,
		"facts.a-b":      {"a-b": {}},
		"facts.a.value":  {"a": {Value: math.NaN()}},
		"facts.b.value":  {"b": {Value: 1, State: FactNotNumber}},
		"facts.c.state":  {"c": {State: "No Answer"}},
		"facts.d.reason": {"d": {State: FactNoAnswer, Reason: strings.Repeat("a", MaxFactBytes+1)}},
	} {
		r.Facts = facts
		if _, err := Sign(keyOf("n1"), r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
