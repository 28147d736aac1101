package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"chat/internal/protocol"
)

// lineSize is the length of every line's text in bytes.
const lineSize = 64

// A lineID names a line: the speaker's number-th, from 0 on.
type lineID struct{ speaker, number int }

// text returns what the line says.
func (id lineID) text() string {
	return fmt.Sprintf("speaker %04d says line %08d of a load, in sixty-four bytes..", id.speaker, id.number)
}

// encode returns the payload with which a client sends the line.
func (id lineID) encode(subprotocol string) string {
	if subprotocol == protocol.Subprotocol {
		return `{"text":"` + id.text() + `"}`
	}
	return id.text()
}

// decode returns the text in a line of a server's frame. It reports false for a notice.
func decode(line []byte, subprotocol string) (text string, ok bool, err error) {
	if subprotocol != protocol.Subprotocol {
		return string(line), true, nil
	}
	var message struct{ Type, Text string }
	if err := json.Unmarshal(line, &message); err != nil {
		return "", false, fault(fmt.Sprintf("sent %q: %v", line, err))
	}
	return message.Text, message.Type == "message", nil
}

// A record is the lines of a room in its order. The first listener to receive a line adds
// it, and the same line to any other is compared with it. So each line is parsed once,
// and to check it for a thousand listeners costs a comparison of bytes each.
type record struct {
	subprotocol string
	text        []byte   // the lines as the server encodes them, each ended by a newline
	ends        []int    // where each of them ends in text, newline included
	lines       []lineID // the same lines
	sent        []int    // lines that each speaker has sent
	received    []int    // how many of these are in the record
}

// A fault is something that the server got wrong.
type fault string

// Error returns what is wrong.
func (f fault) Error() string { return string(f) }

// newRecord returns a record without lines, for so many speakers.
func newRecord(subprotocol string, speakers int) *record {
	return &record{subprotocol: subprotocol, sent: make([]int, speakers), received: make([]int, speakers)}
}

// add appends a line that nobody has received before, and its text. It returns a fault unless
// that is the next one of its speaker.
func (r *record) add(line []byte, text string) error {
	speaker := -1
	if len(text) == lineSize {
		speaker, _ = strconv.Atoi(text[8:12]) // an error leaves 0, whose line this is not
	}
	if speaker < 0 || speaker >= len(r.sent) || r.received[speaker] == r.sent[speaker] ||
		text != (lineID{speaker, r.received[speaker]}).text() {
		return fault(fmt.Sprintf("sent %q, which is no speaker's next line", line))
	}
	r.lines = append(r.lines, lineID{speaker, r.received[speaker]})
	r.received[speaker]++
	r.text = append(append(r.text, line...), '\n')
	r.ends = append(r.ends, len(r.text))
	return nil
}

// A listener checks what one client receives. It is a position in the record, which is
// the same for all: so no line can be missing, doubled or out of order.
type listener struct {
	record   *record
	at       int    // where the next line begins in record.text
	received int    // lines before that
	tail     []byte // a line that is not whole yet
}

var newline = []byte("\n")

// receive checks a piece of a text message; end says that it is the last one, which ends a
// line too. It returns the lines that are whole now, and a fault if one of them is wrong.
func (l *listener) receive(piece []byte, end bool) ([]lineID, error) {
	if len(l.tail) > 0 {
		l.tail = append(l.tail, piece...)
		piece = l.tail
	}
	lines, tail := piece, []byte(nil)
	if !end {
		last := bytes.LastIndexByte(piece, '\n')
		if last < 0 {
			l.tail = append(l.tail[:0], piece...)
			return nil, nil
		}
		lines, tail = piece[:last], piece[last+1:]
	}
	before := l.received
	err := l.receiveLines(lines)
	l.tail = append(l.tail[:0], tail...)
	return l.record.lines[before:l.received], err
}

// receiveLines checks whole lines, of which the last has no newline.
func (l *listener) receiveLines(lines []byte) error {
	if l.skip(lines) {
		return nil
	}
	for line := range bytes.SplitSeq(lines, newline) {
		if err := l.receiveLine(line); err != nil {
			return err
		}
	}
	return nil
}

// skip reports whether these lines are the next of the record, and goes past them if so.
func (l *listener) skip(lines []byte) bool {
	next := l.record.text[l.at:]
	if len(next) <= len(lines) || next[len(lines)] != '\n' || !bytes.Equal(next[:len(lines)], lines) {
		return false
	}
	l.at += len(lines) + 1
	last, _ := slices.BinarySearch(l.record.ends[l.received:], l.at) // faster than to count newlines
	l.received += last + 1
	return true
}

// receiveLine checks a line that may be new, a notice or wrong.
func (l *listener) receiveLine(line []byte) error {
	if l.skip(line) {
		return nil
	}
	text, ok, err := decode(line, l.record.subprotocol)
	if err != nil || !ok {
		return err
	}
	if l.at < len(l.record.text) {
		next, _, _ := bytes.Cut(l.record.text[l.at:], newline)
		return fault(fmt.Sprintf("sent one client %q and others %q", line, next))
	}
	if err := l.record.add(line, text); err != nil {
		return err
	}
	l.at, l.received = len(l.record.text), len(l.record.lines)
	return nil
}
