package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"chat/internal/wstest"
)

// serverFrame spells a frame as a server sends it.
func serverFrame(final bool, op byte, payload string) []byte {
	b := []byte{op}
	if final {
		b[0] |= 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

// parse scans the stream in parts of so many bytes. It returns the messages found, one
// a line, pieces put together again.
func parse(stream []byte, size int) (string, error) {
	var p parser
	var found, text strings.Builder
	for len(stream) > 0 {
		part := stream[:min(size, len(stream))]
		stream = stream[len(part):]
		p.data = append(bytes.Clone(p.data), part...)
		for p.scan() {
			switch {
			case p.op != wstest.Text:
				fmt.Fprintf(&found, "%x:%s\n", p.op, p.body)
			default:
				text.Write(p.body)
				if p.end {
					fmt.Fprintf(&found, "1:%s\n", &text)
					text.Reset()
				}
			}
		}
	}
	return found.String(), p.err
}

func TestParserTakesPartsOfAnySize(t *testing.T) {
	long, longer := strings.Repeat("x", 300), strings.Repeat("y", 70_000)
	stream := bytes.Join([][]byte{
		serverFrame(true, wstest.Text, "one"),
		serverFrame(true, wstest.Text, ""),
		serverFrame(false, wstest.Text, "in "),
		serverFrame(true, wstest.Ping, "are you there"), // may stand between fragments
		serverFrame(false, wstest.Continuation, ""),
		serverFrame(true, wstest.Continuation, "fragments"),
		serverFrame(true, wstest.Text, long),
		serverFrame(true, wstest.Text, longer),
		serverFrame(true, wstest.Ping, ""),
		serverFrame(true, wstest.Close, "\x03\xe8goodbye"),
	}, nil)
	want := "1:one\n1:\n9:are you there\n1:in fragments\n1:" + long + "\n1:" + longer + "\n9:\n8:\x03\xe8goodbye\n"
	for _, size := range []int{1, 2, 3, 5, 7, 64, 1000, len(stream)} {
		got, err := parse(stream, size)
		if err != nil {
			t.Fatalf("in parts of %d: %v", size, err)
		}
		if got != want {
			t.Errorf("in parts of %d: got %.200q, want %.200q", size, got, want)
		}
	}
}

func TestParserRefuses(t *testing.T) {
	for what, stream := range map[string][]byte{
		"a mask":                    {0x81, 0x83, 0, 0, 0, 0, 'a', 'b', 'c'},
		"a reserved bit":            {0xC1, 0x01, 'a'},
		"binary":                    serverFrame(true, 0x2, "a"),
		"a stray continuation":      serverFrame(true, wstest.Continuation, "a"),
		"a text within a text":      append(serverFrame(false, wstest.Text, "a"), serverFrame(true, wstest.Text, "b")...),
		"a fragmented ping":         serverFrame(false, wstest.Ping, "a"),
		"a long ping":               serverFrame(true, wstest.Ping, strings.Repeat("a", 126)),
		"an opcode without meaning": serverFrame(true, 0xB, ""),
	} {
		if _, err := parse(stream, len(stream)); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
