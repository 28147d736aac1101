package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"chat/internal/protocol"
)

const lineSize = 64

// appendLine appends what a speaker says for the number-th time, from 0 on.
func appendLine(b []byte, speaker, number int) []byte {
	const blank = "speaker 0000 says line 00000000 of a load, in sixty-four bytes.."
	start := len(b)
	b = append(b, blank...)
	putDigits(b[start+8:start+12], speaker)
	putDigits(b[start+23:start+31], number)
	return b
}

// putDigits writes n into b, right-aligned.
func putDigits(b []byte, n int) {
	for i := len(b) - 1; n > 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}

// parseLine is the inverse of appendLine.
func parseLine(line []byte) (lineID, error) {
	if len(line) == lineSize {
		speaker, err1 := strconv.Atoi(string(line[8:12]))
		number, err2 := strconv.Atoi(string(line[23:31]))
		if err1 == nil && err2 == nil && bytes.Equal(line, appendLine(nil, speaker, number)) {
			return lineID{int32(speaker), int32(number)}, nil
		}
	}
	return lineID{}, fault(fmt.Sprintf("heard %q, which nobody said", line))
}

// encodeLine returns the payload with which a client sends a line.
func encodeLine(subprotocol string, speaker, number int) string {
	line := string(appendLine(nil, speaker, number))
	if subprotocol == protocol.Subprotocol {
		return `{"text":"` + line + `"}`
	}
	return line
}

// parseMessage takes a line as the server spells it. It reports false for what
// nobody said: chat.v1's notices.
func parseMessage(line []byte, subprotocol string) (lineID, bool, error) {
	if subprotocol == protocol.Subprotocol {
		var message struct{ Type, Text string }
		if err := json.Unmarshal(line, &message); err != nil {
			return lineID{}, false, fault(fmt.Sprintf("heard %q: %v", line, err))
		}
		if message.Type != "message" {
			return lineID{}, false, nil
		}
		line = []byte(message.Text)
	}
	id, err := parseLine(line)
	return id, true, err
}
