package main

import (
	"bytes"
	"fmt"
)

// A record is what was said, in the order in which the room heard it. Whoever
// hears a line first adds it; everyone after that is compared with it. So each line
// is parsed once, and a thousand listeners cost a comparison of bytes each.
type record struct {
	subprotocol string
	text        []byte   // the lines as the server spells them, each ended by a newline
	lines       []lineID // the same lines
	sent        []int    // how often each speaker has spoken
	received    []int    // how many of these are in the record
}

// A lineID is a line that was said: the speaker's number-th, from 0 on.
type lineID struct{ speaker, number int32 }

// A fault is something that the server got wrong.
type fault string

func (f fault) Error() string { return string(f) }

func newRecord(subprotocol string, speakers int) *record {
	return &record{subprotocol: subprotocol, sent: make([]int, speakers), received: make([]int, speakers)}
}

// add appends a line that nobody has heard before. It must be the next one of its speaker.
func (r *record) add(line []byte, id lineID) error {
	speaker := int(id.speaker)
	switch {
	case speaker >= len(r.sent) || int(id.number) >= r.sent[speaker]:
		return fault(fmt.Sprintf("heard %q, which nobody said", line))
	case int(id.number) != r.received[speaker]:
		return fault(fmt.Sprintf("heard %q, but speaker %d's next line is number %d", line, speaker, r.received[speaker]))
	}
	r.received[speaker]++
	r.text = append(append(r.text, line...), '\n')
	r.lines = append(r.lines, id)
	return nil
}

// A listener is how far into the record one listener has heard. The record is the same
// for all, so nothing can be left out, come twice or come in another order.
type listener struct {
	record   *record
	at       int    // in record.text, where the next line begins
	received int    // in record.lines, the same
	tail     []byte // of a line, until its end comes
}

// receive takes a piece of a text message, the last one of it if end is true: it ends a
// line too. It returns the lines that were completed.
func (l *listener) receive(piece []byte, end bool) ([]lineID, error) {
	before := l.received
	err := l.receivePiece(piece, end)
	return l.record.lines[before:l.received], err
}

var newline = []byte("\n")

func (l *listener) receivePiece(piece []byte, end bool) error {
	if len(l.tail) > 0 {
		rest, after, more := bytes.Cut(piece, newline)
		l.tail = append(l.tail, rest...)
		if !more && !end {
			return nil
		}
		line := l.tail
		l.tail = l.tail[:0]
		if err := l.receiveLine(line); err != nil || !more {
			return err
		}
		piece = after
	}
	if !end {
		last := bytes.LastIndexByte(piece, '\n')
		l.tail = append(l.tail, piece[last+1:]...)
		if last < 0 {
			return nil
		}
		piece = piece[:last]
	}
	// Now it is whole lines, the last without its newline.
	if l.next(piece) {
		return nil
	}
	for line := range bytes.SplitSeq(piece, newline) {
		if err := l.receiveLine(line); err != nil {
			return err
		}
	}
	return nil
}

// next reports whether these lines are the next of the record, and moves on if so.
func (l *listener) next(lines []byte) bool {
	ahead := l.record.text[l.at:]
	if len(ahead) <= len(lines) || ahead[len(lines)] != '\n' || !bytes.Equal(ahead[:len(lines)], lines) {
		return false
	}
	l.at += len(lines) + 1
	l.received += bytes.Count(lines, newline) + 1
	return true
}

// receiveLine is for one line that is new, wrong or a notice; or just among such.
func (l *listener) receiveLine(line []byte) error {
	if l.next(line) {
		return nil
	}
	id, ok, err := parseMessage(line, l.record.subprotocol)
	if err != nil || !ok {
		return err
	}
	if l.at < len(l.record.text) {
		others, _, _ := bytes.Cut(l.record.text[l.at:], newline)
		return fault(fmt.Sprintf("one heard %q where others heard %q", line, others))
	}
	if err := l.record.add(line, id); err != nil {
		return err
	}
	l.at = len(l.record.text)
	l.received = len(l.record.lines)
	return nil
}
