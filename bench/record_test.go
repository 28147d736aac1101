package main

import (
	"bytes"
	"strings"
	"testing"
)

// A room in which two speakers have said three lines each.
func newTestRecord() (r *record, lines [][]byte) {
	r = newRecord("", 2)
	for number := range 3 {
		for speaker := range 2 {
			lines = append(lines, appendLine(nil, speaker, number))
			r.said[speaker]++
		}
	}
	return r, lines
}

// hearAll has a listener hear these lines in one message, in pieces of so many bytes.
func hearAll(r *record, size int, lines ...[]byte) (e *ear, err error) {
	e = &ear{record: r}
	message := bytes.Join(lines, newline)
	for err == nil && len(message) > 0 {
		piece := message[:min(size, len(message))]
		message = message[len(piece):]
		_, err = e.hear(piece, len(message) == 0)
	}
	return e, err
}

func TestAllHearTheSameInPiecesOfAnySize(t *testing.T) {
	r, lines := newTestRecord()
	for _, size := range []int{100, 1, 13, lineSize - 1, lineSize, lineSize + 1, 2*lineSize + 2, 1000} {
		e, err := hearAll(r, size, lines...)
		if err != nil {
			t.Fatalf("in pieces of %d: %v", size, err)
		}
		if e.heard != len(lines) || e.at != len(r.text) {
			t.Errorf("in pieces of %d: heard %d lines, %d bytes", size, e.heard, e.at)
		}
	}
	if len(r.lines) != len(lines) {
		t.Errorf("%d lines in the record, want %d", len(r.lines), len(lines))
	}
}

func TestEarTellsWhichLinesCame(t *testing.T) {
	r, lines := newTestRecord()
	for range 2 { // the first to hear it, and one after
		e := &ear{record: r}
		e.hear(lines[0], true)
		e.hear(lines[1][:10], false)
		got, err := e.hear(append(append(lines[1][10:len(lines[1]):len(lines[1])], '\n'), lines[2]...), true)
		if err != nil || len(got) != 2 || got[0] != (spoken{1, 0}) || got[1] != (spoken{0, 1}) {
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
		"a line never said":   func(l [][]byte) [][]byte { return append(l[:6:6], appendLine(nil, 1, 3)) },
	} {
		for _, size := range []int{1, 50, 1000} {
			r, lines := newTestRecord()
			if _, err := hearAll(r, 1000, lines...); err != nil {
				t.Fatal(err)
			}
			if _, err := hearAll(r, size, lie(lines)...); err == nil {
				t.Errorf("%s, after the truth, in pieces of %d: no fault", what, size)
			}
			r, lines = newTestRecord()
			_, err1 := hearAll(r, size, lie(lines)...)
			_, err2 := hearAll(r, 1000, lines...)
			if err1 == nil && err2 == nil {
				t.Errorf("%s, before the truth, in pieces of %d: no fault", what, size)
			}
		}
	}
}

func TestNoticesAreNoLines(t *testing.T) {
	r := newRecord(chatV1, 1)
	r.said[0] = 2
	message := func(number string) []byte {
		return []byte(`{"type":"message","id":` + number + `,"text":"` + string(appendLine(nil, 0, int(number[0]-'0'))) + `"}`)
	}
	hello, online := []byte(`{"type":"hello","room":""}`), []byte(`{"type":"online","count":2}`)
	for _, size := range []int{1000, 1, 30} {
		for _, lines := range [][][]byte{
			{hello, online, message("0"), online, message("1")},
			{hello, message("0"), message("1"), online},
		} {
			if e, err := hearAll(r, size, lines...); err != nil || e.heard != 2 {
				t.Errorf("in pieces of %d: heard %d, %v", size, e.heard, err)
			}
		}
	}
}
