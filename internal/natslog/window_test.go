package natslog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"chat/internal/protocol"
)

// said returns a message with a client message id.
func said(id int64, userID, ref string) *protocol.Message {
	return &protocol.Message{ID: id, Time: time.UnixMilli(id), UserID: userID, Text: "hello", ClientMsgID: ref}
}

// A line that is said again is found for as many turns as are kept of every room, and has
// the id and the time that it had first.
func TestARepeatIsFoundWithinTheWindow(t *testing.T) {
	for later, want := range map[int]bool{0: true, 1: true, windowTurns - 1: true, windowTurns: false} {
		w := newWindow()
		w.begin(turnID{"hub", 1})
		w.add(said(1000, "ada", "r"))
		for i := range later {
			w.begin(turnID{"hub", uint64(2 + i)})
		}
		again := said(5000, "ada", "r")
		if repeat := w.add(again); repeat != want || want && (again.ID != 1000 || !again.Time.Equal(time.UnixMilli(1000))) {
			t.Errorf("%d turns later: %v, %+v", later, repeat, again)
		}
	}
	w := newWindow()
	w.begin(turnID{"hub", 1})
	w.add(said(1, "ada", "r"))
	for _, other := range []*protocol.Message{said(2, "bob", "r"), said(3, "ada", "s"), said(4, "adar", ""), said(5, "ada", ""), said(6, "a", "dar")} {
		if w.add(other) || w.add(said(9, "ada", "")) {
			t.Errorf("%+v is taken for a repeat", other)
		}
	}
}

// However many lines the turns have, no more than windowLines are searched.
func TestAWindowIsBounded(t *testing.T) {
	w := newWindow()
	for turn := range 20 {
		w.begin(turnID{"hub", uint64(turn + 1)})
		for line := range maxTurnLines {
			w.add(said(int64(turn*1000+line+1), "ada", fmt.Sprint(turn, "-", line)))
		}
	}
	if len(w.keys) != windowLines || len(w.first) != windowLines {
		t.Errorf("%d keys, %d marks, want %d", len(w.keys), len(w.first), windowLines)
	}
	if !w.add(said(1, "ada", "19-899")) || w.add(said(2, "ada", "0-0")) {
		t.Error("the last line is not found, or the first is")
	}
}

// All hubs find the same repeats, from windowTurns after the turn on with which each began
// to read.
func TestAllHubsFindTheSame(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	type line struct{ user, ref string }
	turns := make([]line, 5*windowTurns)
	for i := range turns {
		turns[i] = line{fmt.Sprint(random.IntN(40)), fmt.Sprint(random.IntN(100))}
	}
	read := func(from int) (repeats []bool) {
		w := newWindow()
		for i := from; i < len(turns); i++ {
			w.begin(turnID{"hub", uint64(i + 1)})
			repeats = append(repeats, w.add(said(int64(i), turns[i].user, turns[i].ref)))
		}
		return repeats
	}
	all := read(0)
	found := 0
	for _, from := range []int{1, windowTurns / 2, windowTurns, 3 * windowTurns} {
		for i, repeat := range read(from)[windowTurns:] {
			if repeat != all[from+windowTurns+i] {
				t.Fatalf("who began with turn %d finds %v of turn %d", from, repeat, from+windowTurns+i)
			}
			if repeat {
				found++
			}
		}
	}
	if found < 1000 {
		t.Errorf("only %d repeats", found)
	}
}

// A turn that its hub repeats is ignored. Each hub counts for itself.
func TestATurnThatIsRepeatedIsIgnored(t *testing.T) {
	w := newWindow()
	for _, turn := range []struct {
		hub   string
		n     uint64
		isNew bool
	}{{"a", 1, true}, {"a", 1, false}, {"b", 1, true}, {"a", 3, true}, {"a", 2, false}, {"a", 3, false}, {"a", 4, true}} {
		if isNew := w.begin(turnID{turn.hub, turn.n}); isNew != turn.isNew {
			t.Errorf("%+v: %v", turn, isNew)
		}
	}
	for later, isNew := range map[int]bool{windowTurns - 1: false, windowTurns: true} {
		w := newWindow()
		for i := range later {
			w.begin(turnID{fmt.Sprint("hub", i), 1})
		}
		if w.begin(turnID{"hub0", 1}) != isNew {
			t.Errorf("a turn that is repeated %d turns later is new: %v", later, !isNew)
		}
	}
	for i := range 3 * windowTurns {
		w.begin(turnID{fmt.Sprint("hub", i), 1})
		if w.begin(turnID{fmt.Sprint("hub", i), 1}) {
			t.Fatalf("turn %d is heard twice", w.turns)
		}
	}
	if len(w.publishers) > 2*windowTurns {
		t.Errorf("%d hubs are remembered", len(w.publishers))
	}
}

func TestDecodeTurn(t *testing.T) {
	const line = `{"from":"f","text":"hello"}`
	full := `{"time":"2026-01-02T03:04:05.678Z","lines":[%s]}`
	for text, want := range map[string]string{
		"":                      "error",
		"null":                  "error",
		fmt.Sprintf(full, line): "[7000 f  hello ] 0",
		fmt.Sprintf(full, `{"from":"f","name":"A","text":"a\nb","ref":"r","new":1}`):     "[7000 f A a\nb r] 0",
		fmt.Sprintf(full, `7,{"from":"","text":"x"},{"from":"f","text":" "},`+line):      "[7003 f  hello ] 3",
		fmt.Sprintf(full, `{"from":"f","text":"x","ref":"`+strings.Repeat("r", 65)+`"}`): " 1",
		fmt.Sprintf(full, `{"from":"f","text":"`+strings.Repeat("x", 4097)+`"}`):         " 1",
		fmt.Sprintf(full, ""): "error",
		fmt.Sprintf(full, line+strings.Repeat(","+line, idsPerTurn-1)): "error",
		strings.Replace(fmt.Sprintf(full, line), "2026", "x", 1):       "error",
		fmt.Sprintf(full, "{\"from\":\"f\",\"text\":\"\xff\"}"):        "error",
	} {
		messages, skipped, err := decodeTurn([]byte(text), 7)
		got := ""
		for _, m := range messages {
			got += fmt.Sprintf("[%d %s %s %s %s]", m.ID, m.UserID, m.Name, m.Text, m.ClientMsgID)
		}
		got += fmt.Sprint(" ", skipped)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%.100s: %s, want %s", text, got, want)
		}
	}
}

func TestParseTurnID(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for text, want := range map[string]bool{"hub.1": true, x(64) + ".18446744073709551615": true, x(65) + ".1": false, ".1": false, "hub": false, "hub.": false, "hub.-1": false, "": false} {
		if id, ok := parseTurnID(text); ok != want || ok && id.String() != text {
			t.Errorf("%q: %v, %v", text, id, ok)
		}
	}
}

// Whatever clients say, a turn is read as it was said.
func TestATurnIsReadAsItWasSaid(t *testing.T) {
	lines := []Line{
		{"f", "", "hello", ""},
		{"f", "Ada <b>", `"quoted" & \ <script>`, "r\x00\n"},
		{"f", "guest", "\U0001F600 שלום", "ref"},
	}
	var encoded []byte
	for i, line := range lines {
		if i > 0 {
			encoded = append(encoded, ',')
		}
		encoded = append(encoded, line.encode()...)
	}
	now := time.UnixMilli(1_700_000_000_123)
	messages, skipped, err := decodeTurn(encodeTurn(encoded, now), 5)
	if err != nil || skipped > 0 || len(messages) != len(lines) {
		t.Fatalf("%d messages, %d skipped, %v", len(messages), skipped, err)
	}
	for i, m := range messages {
		if line := (Line{m.UserID, m.Name, m.Text, m.ClientMsgID}); line != lines[i] || m.ID != int64(5000+i) || !m.Time.Equal(now) {
			t.Errorf("%+v of %+v", m, lines[i])
		}
	}
}

// No line is longer than what IsFull leaves room for.
func TestTheLongestLine(t *testing.T) {
	long := Line{strings.Repeat("f", 64), strings.Repeat("\U0001F600", protocol.MaxName), strings.Repeat(`"`, protocol.MaxText), strings.Repeat("\x01", protocol.MaxClientMsgID)}
	if n := len(long.encode()); n > maxLineBytes {
		t.Errorf("%d bytes, want at most %d", n, maxLineBytes)
	}
}

// What is compared with the time does not depend on a clock that may be set back: it has a
// reading of the monotonic clock.
func TestInstantsAreMonotonic(t *testing.T) {
	begun := time.Now()
	var i instant
	if got := i.time(begun); !got.Equal(begun) {
		t.Errorf("a zero instant is %v, want %v", got, begun)
	}
	before := time.Now()
	i.setNow(begun)
	if got := i.time(begun); got.Before(before) || got.After(time.Now()) || !strings.Contains(got.String(), "m=") {
		t.Errorf("now is %v, want %v", got, before)
	}
}

// silentEngine is an Engine that answers nothing.
type silentEngine struct{ Engine }

func (silentEngine) Request(context.Context, *Message) (*Message, error) {
	return nil, errors.New("no answer")
}

// When no turn is under way, nobody can say that the stream stores nothing: a turn may have
// been stored just when a room said so.
func TestWithoutATurnNothingIsStuck(t *testing.T) {
	s := newStream(Options{}, nil)
	s.engine = silentEngine{}
	s.isStuck.Store(true)
	s.unackedTurns.Store(1)
	s.look(&watcher{answered: time.Now()})
	if s.outage() == nil {
		t.Error("the stream stores again while a turn is under way")
	}
	s.unackedTurns.Store(0)
	s.look(&watcher{answered: time.Now()})
	if s.outage() != nil {
		t.Error("the stream stores nothing while no turn is under way")
	}
}
