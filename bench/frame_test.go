package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"chat/internal/wstest"
)

const fin = wstest.Fin

// serverFrame returns a frame as a server sends it: without a mask.
func serverFrame(first byte, payload string) string {
	frame := []byte(wstest.Masked(first, payload))
	frame[1] &^= 0x80
	header := len(frame) - len(payload) - 4
	return string(frame[:header]) + payload
}

// parse scans a stream that comes in parts of so many bytes. It returns the messages found,
// one a line.
func parse(stream string, size int) (string, error) {
	var p parser
	var found, text strings.Builder
	for len(stream) > 0 {
		part := stream[:min(size, len(stream))]
		stream = stream[len(part):]
		p.data = append(bytes.Clone(p.data), part...)
		for p.scan() {
			if p.op != wstest.Text {
				fmt.Fprintf(&found, "%x:%s\n", p.op, p.body)
				continue
			}
			text.Write(p.body)
			if p.end {
				fmt.Fprintf(&found, "1:%s\n", &text)
				text.Reset()
			}
		}
	}
	return found.String(), p.err
}

func TestParser(t *testing.T) {
	long, longer := strings.Repeat("x", 300), strings.Repeat("y", 70_000)
	stream := serverFrame(fin|wstest.Text, "one") +
		serverFrame(fin|wstest.Text, "") +
		serverFrame(wstest.Text, "in ") +
		serverFrame(fin|wstest.Ping, "are you there") + // may come between fragments
		serverFrame(wstest.Continuation, "") +
		serverFrame(fin|wstest.Continuation, "fragments") +
		serverFrame(fin|wstest.Text, long) +
		serverFrame(fin|wstest.Text, longer) +
		serverFrame(fin|wstest.Ping, "") +
		serverFrame(fin|wstest.Close, wstest.Closing(1000, "goodbye"))
	want := "1:one\n1:\n9:are you there\n1:in fragments\n1:" + long + "\n1:" + longer + "\n9:\n8:\x03\xe8goodbye\n"
	for _, size := range []int{1, 2, 3, 5, 7, 64, 1000, len(stream)} {
		if got, err := parse(stream, size); got != want || err != nil {
			t.Errorf("in parts of %d: got %.200q, %v, want %.200q", size, got, err, want)
		}
	}
}

func TestParserRefuses(t *testing.T) {
	for what, stream := range map[string]string{
		"a mask":                    wstest.Masked(fin|wstest.Text, "abc"),
		"a reserved bit":            serverFrame(fin|0x40|wstest.Text, "a"),
		"binary":                    serverFrame(fin|wstest.Binary, "a"),
		"a stray continuation":      serverFrame(fin|wstest.Continuation, "a"),
		"a text within a text":      serverFrame(wstest.Text, "a") + serverFrame(fin|wstest.Text, "b"),
		"a fragmented ping":         serverFrame(wstest.Ping, "a"),
		"a long ping":               serverFrame(fin|wstest.Ping, strings.Repeat("a", 126)),
		"an opcode without meaning": serverFrame(fin|0xB, ""),
	} {
		if _, err := parse(stream, len(stream)); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
