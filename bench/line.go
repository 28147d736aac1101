package main

import (
	"encoding/json"
	"fmt"
	"strconv"

	"chat/internal/protocol"
)

// A lineID names a line: the speaker's number-th, from 0 on.
type lineID struct{ speaker, number int }

// lineSize is the length of every line in bytes.
const lineSize = 64

// text returns the line.
func (id lineID) text() string {
	return fmt.Sprintf("speaker %04d says line %08d of a load, in sixty-four bytes..", id.speaker, id.number)
}

// parseLine is the inverse of lineID.text. It returns a fault for any other text.
func parseLine(text []byte) (lineID, error) {
	if len(text) == lineSize {
		speaker, _ := strconv.ParseUint(string(text[8:12]), 10, 31)
		number, _ := strconv.ParseUint(string(text[23:31]), 10, 31)
		if id := (lineID{int(speaker), int(number)}); string(text) == id.text() {
			return id, nil
		}
	}
	return lineID{}, fault(fmt.Sprintf("sent %q, which nobody said", text))
}

// encode returns the payload with which a client sends the line.
func (id lineID) encode(subprotocol string) string {
	if subprotocol == protocol.Subprotocol {
		return `{"text":"` + id.text() + `"}`
	}
	return id.text()
}

// decode returns what a line of a server's frame says. It reports false for a notice.
func decode(line []byte, subprotocol string) (id lineID, ok bool, err error) {
	if subprotocol == protocol.Subprotocol {
		var message struct{ Type, Text string }
		if err := json.Unmarshal(line, &message); err != nil {
			return lineID{}, false, fault(fmt.Sprintf("sent %q: %v", line, err))
		}
		if message.Type != "message" {
			return lineID{}, false, nil
		}
		line = []byte(message.Text)
	}
	id, err = parseLine(line)
	return id, true, err
}
