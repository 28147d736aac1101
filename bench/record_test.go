package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"chat/internal/protocol"
)

// A room in which two speakers have said three lines each.
func newTestRecord() (r *record, lines [][]byte) {
	r = newRecord("", 2)
	for number := range 3 {
		for speaker := range 2 {
			lines = append(lines, []byte(lineID{speaker, number}.text()))
			r.sent[speaker]++
		}
	}
	return r, lines
}

// receiveAll has a listener hear these lines in one message, in pieces of so many bytes.
func receiveAll(r *record, size int, lines ...[]byte) (l *listener, err error) {
	l = &listener{record: r}
	message := bytes.Join(lines, newline)
	for err == nil && len(message) > 0 {
		piece := message[:min(size, len(message))]
		message = message[len(piece):]
		_, err = l.receive(piece, len(message) == 0)
	}
	return l, err
}

func TestAllHearTheSameInPiecesOfAnySize(t *testing.T) {
	r, lines := newTestRecord()
	for _, size := range []int{100, 1, 13, lineSize - 1, lineSize, lineSize + 1, 2*lineSize + 2, 1000} {
		l, err := receiveAll(r, size, lines...)
		if err != nil {
			t.Fatalf("in pieces of %d: %v", size, err)
		}
		if l.received != len(lines) || l.at != len(r.text) {
			t.Errorf("in pieces of %d: heard %d lines, %d bytes", size, l.received, l.at)
		}
	}
	if len(r.lines) != len(lines) {
		t.Errorf("%d lines in the record, want %d", len(r.lines), len(lines))
	}
}

func TestListenerTellsWhichLinesCame(t *testing.T) {
	r, lines := newTestRecord()
	for range 2 { // the first to hear it, and one after
		l := &listener{record: r}
		l.receive(lines[0], true)
		l.receive(lines[1][:10], false)
		got, err := l.receive(append(append(lines[1][10:len(lines[1]):len(lines[1])], '\n'), lines[2]...), true)
		if err != nil || len(got) != 2 || got[0] != (lineID{1, 0}) || got[1] != (lineID{0, 1}) {
			t.Errorf("got %v, %v", got, err)
		}
	}
}

// TestLies is what the checker is for: the first listener hears the truth, or is the one
// lied to.
func TestLies(t *testing.T) {
	for what, lie := range map[string]func(lines [][]byte) [][]byte{
		"a line left out":     func(l [][]byte) [][]byte { return append(l[:2:2], l[3:]...) },
		"a line twice":        func(l [][]byte) [][]byte { return append(l[:3:3], l[2:]...) },
		"speakers swapped":    func(l [][]byte) [][]byte { return [][]byte{l[0], l[1], l[3], l[2], l[4], l[5]} },
		"a speaker's swapped": func(l [][]byte) [][]byte { return [][]byte{l[2], l[1], l[0], l[3], l[4], l[5]} },
		"a damaged line":      func(l [][]byte) [][]byte { return append(l[:2:2], []byte(strings.ToUpper(string(l[2])))) },
		"half a line":         func(l [][]byte) [][]byte { return append(l[:2:2], l[2][:20]) },
		"an empty line":       func(l [][]byte) [][]byte { return [][]byte{l[0], nil, l[1]} },
		"a line never said":   func(l [][]byte) [][]byte { return append(l[:6:6], []byte(lineID{1, 3}.text())) },
	} {
		for _, size := range []int{1, 50, 1000} {
			r, lines := newTestRecord()
			if _, err := receiveAll(r, 1000, lines...); err != nil {
				t.Fatal(err)
			}
			if _, err := receiveAll(r, size, lie(lines)...); err == nil {
				t.Errorf("%s, after the truth, in pieces of %d: no fault", what, size)
			}
			r, lines = newTestRecord()
			_, err1 := receiveAll(r, size, lie(lines)...)
			_, err2 := receiveAll(r, 1000, lines...)
			if err1 == nil && err2 == nil {
				t.Errorf("%s, before the truth, in pieces of %d: no fault", what, size)
			}
		}
	}
}

func TestNoticesAreNoLines(t *testing.T) {
	r := newRecord(protocol.Subprotocol, 1)
	r.sent[0] = 2
	message := func(number int) []byte {
		return fmt.Appendf(nil, `{"type":"message","id":%d,"text":"%s"}`, number, lineID{0, number}.text())
	}
	hello, online := []byte(`{"type":"hello","room":""}`), []byte(`{"type":"online","count":2}`)
	for _, size := range []int{1000, 1, 30} {
		for _, lines := range [][][]byte{
			{hello, online, message(0), online, message(1)},
			{hello, message(0), message(1), online},
		} {
			if l, err := receiveAll(r, size, lines...); err != nil || l.received != 2 {
				t.Errorf("in pieces of %d: heard %d, %v", size, l.received, err)
			}
		}
	}
}

func TestDamagedLines(t *testing.T) {
	line := []byte(lineID{1, 0}.text())
	if len(line) != lineSize {
		t.Errorf("%q has %d bytes", line, len(line))
	}
	for i := range line {
		damaged := bytes.Clone(line)
		damaged[i] ^= 1
		r := newRecord("", 2)
		r.sent[0], r.sent[1] = 1, 2
		if _, err := receiveAll(r, 1000, damaged); (err == nil) != (i == 11) { // where it is the line of speaker 0
			t.Errorf("%q: %v", damaged, err)
		}
	}
}
