package main

import (
	"bytes"
	"fmt"
)

// A record is what was said, in the order in which the room heard it. Whoever
// hears a line first adds it; everyone after that is compared with it. So each line
// is parsed once, and a thousand listeners cost a comparison of bytes each.
type record struct {
	protocol string
	text     []byte   // the lines as the server spells them, each ended by a newline
	lines    []spoken // the same lines
	said     []int    // how often each speaker has spoken
	came     []int    // how many of these are in the record
}

// spoken is a line that was said: the speaker's number-th, from 0 on.
type spoken struct{ speaker, number int32 }

// A fault is something that the server got wrong.
type fault string

func (f fault) Error() string { return string(f) }

func newRecord(protocol string, speakers int) *record {
	return &record{protocol: protocol, said: make([]int, speakers), came: make([]int, speakers)}
}

// add appends a line that nobody has heard before. It must be the next one of its speaker.
func (r *record) add(line []byte, s spoken) error {
	speaker := int(s.speaker)
	switch {
	case speaker >= len(r.said) || int(s.number) >= r.said[speaker]:
		return fault(fmt.Sprintf("heard %q, which nobody said", line))
	case int(s.number) != r.came[speaker]:
		return fault(fmt.Sprintf("heard %q, but speaker %d's next line is number %d", line, speaker, r.came[speaker]))
	}
	r.came[speaker]++
	r.text = append(append(r.text, line...), '\n')
	r.lines = append(r.lines, s)
	return nil
}

// An ear is how far into the record one listener has heard. The record is the same
// for all, so nothing can be left out, come twice or come in another order.
type ear struct {
	record *record
	at     int    // in record.text, where the next line begins
	heard  int    // in record.lines, the same
	tail   []byte // of a line, until its end comes
}

// hear takes a piece of a text message, the last one of it if end is true: it ends a
// line too. It returns the lines that were completed.
func (e *ear) hear(piece []byte, end bool) ([]spoken, error) {
	before := e.heard
	err := e.take(piece, end)
	return e.record.lines[before:e.heard], err
}

var newline = []byte("\n")

func (e *ear) take(piece []byte, end bool) error {
	if len(e.tail) > 0 {
		rest, after, more := bytes.Cut(piece, newline)
		e.tail = append(e.tail, rest...)
		if !more && !end {
			return nil
		}
		line := e.tail
		e.tail = e.tail[:0]
		if err := e.takeLine(line); err != nil || !more {
			return err
		}
		piece = after
	}
	if !end {
		last := bytes.LastIndexByte(piece, '\n')
		e.tail = append(e.tail, piece[last+1:]...)
		if last < 0 {
			return nil
		}
		piece = piece[:last]
	}
	// Now it is whole lines, the last without its newline.
	if e.next(piece) {
		return nil
	}
	for line := range bytes.SplitSeq(piece, newline) {
		if err := e.takeLine(line); err != nil {
			return err
		}
	}
	return nil
}

// next reports whether these lines are the next of the record, and moves on if so.
func (e *ear) next(lines []byte) bool {
	ahead := e.record.text[e.at:]
	if len(ahead) <= len(lines) || ahead[len(lines)] != '\n' || !bytes.Equal(ahead[:len(lines)], lines) {
		return false
	}
	e.at += len(lines) + 1
	e.heard += bytes.Count(lines, newline) + 1
	return true
}

// takeLine is for one line that is new, wrong or a notice; or just among such.
func (e *ear) takeLine(line []byte) error {
	if e.next(line) {
		return nil
	}
	said, ok, err := parseMessage(line, e.record.protocol)
	if err != nil || !ok {
		return err
	}
	if e.at < len(e.record.text) {
		others, _, _ := bytes.Cut(e.record.text[e.at:], newline)
		return fault(fmt.Sprintf("one heard %q where others heard %q", line, others))
	}
	if err := e.record.add(line, said); err != nil {
		return err
	}
	e.at = len(e.record.text)
	e.heard = len(e.record.lines)
	return nil
}
