package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"chat/internal/protocol"
)

// newTestRecord returns an empty record of two speakers, and the three lines that each has sent.
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

// receiveAll passes lines to a new listener as one message, in pieces of so many bytes. It
// returns those that the listener found.
func receiveAll(r *record, size int, lines ...[]byte) (found []lineID, err error) {
	l := &listener{record: r}
	message := bytes.Join(lines, newline)
	for err == nil && len(message) > 0 {
		piece := message[:min(size, len(message))]
		message = message[len(piece):]
		var ids []lineID
		ids, err = l.receive(piece, len(message) == 0)
		found = append(found, ids...)
	}
	return found, err
}

func TestPiecesOfAnySize(t *testing.T) {
	want := []lineID{{0, 0}, {1, 0}, {0, 1}, {1, 1}, {0, 2}, {1, 2}}
	for _, first := range []int{100, 1, 13} {
		r, lines := newTestRecord()
		for _, size := range []int{first, 1, 13, lineSize - 1, lineSize, lineSize + 1, 2*lineSize + 2, 1000} {
			if found, err := receiveAll(r, size, lines...); err != nil || !slices.Equal(found, want) {
				t.Errorf("in pieces of %d: %v, %v", size, found, err)
			}
		}
		if !slices.Equal(r.lines, want) {
			t.Errorf("record %v, want %v", r.lines, want)
		}
	}
}

// A listener that receives something else than the others is noticed, however many lines
// others received before it.
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
			for known := range 7 {
				r, lines := newTestRecord()
				receiveAll(r, 1000, lines[:known]...)
				_, err1 := receiveAll(r, size, lie(lines)...)
				_, err2 := receiveAll(r, 1000, lines...)
				if err1 == nil && err2 == nil {
					t.Errorf("%s, with %d lines in the record, in pieces of %d: no fault", what, known, size)
				}
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
			if found, err := receiveAll(r, size, lines...); err != nil || len(found) != 2 {
				t.Errorf("in pieces of %d: %v, %v", size, found, err)
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

// What a frame of chat.v1 costs the generator, for each listener but the first.
func BenchmarkReceive(b *testing.B) {
	r := newRecord(protocol.Subprotocol, 1)
	r.sent[0] = 80
	var lines [][]byte
	for number := range r.sent[0] {
		lines = append(lines, fmt.Appendf(nil, `{"type":"message","id":1764039284%06d,"time":"2025-11-25T02:54:44.123Z","from":"0123456789abcdef","name":"guest","text":"%s"}`, number, lineID{0, number}.text()))
	}
	frame := bytes.Join(lines, newline)
	l := &listener{record: r}
	l.receive(frame, true)
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		l.at, l.received = 0, 0
		if found, err := l.receive(frame, true); len(found) != len(lines) || err != nil {
			b.Fatal(len(found), err)
		}
	}
}
