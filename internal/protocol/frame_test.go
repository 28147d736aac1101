package protocol

import (
	"bytes"
	"strings"
	"testing"
)

// A text frame of any length holds what was added, with the shortest header, and can be used
// again.
func TestTextFrame(t *testing.T) {
	var frame TextFrame
	for size, header := range map[int]string{
		1:        "\x81\x01",
		125:      "\x81\x7d",
		126:      "\x81\x7e\x00\x7e",
		1000:     "\x81\x7e\x03\xe8",
		MaxFrame: "\x81\x7e\x40\x00",
	} {
		text := strings.Repeat("x", size-1) + "y"
		frame.Reset()
		for _, part := range []string{text[:size/3], text[size/3 : size/2], text[size/2:]} {
			frame.Add([]byte(part))
		}
		if got := string(frame.Bytes()); got != header+text {
			t.Errorf("%d bytes: the frame begins with %.6q and has %d", size, got, len(got))
		}
		if string(frame.Text()) != text {
			t.Errorf("%d bytes: the text is another", size)
		}
	}
}

// Two frames do not share memory.
func TestTextFramesAreApart(t *testing.T) {
	var a, b TextFrame
	a.Add([]byte("a"))
	b.Add([]byte("b"))
	if !bytes.Equal(a.Bytes(), []byte("\x81\x01a")) || !bytes.Equal(b.Bytes(), []byte("\x81\x01b")) {
		t.Errorf("%q and %q", a.Bytes(), b.Bytes())
	}
}

func TestCloseFrame(t *testing.T) {
	if got := string(CloseFrame(MessageTooBig)); got != "\x88"+string(rune(2+len(MessageTooBig.Reason)))+"\x03\xf1"+MessageTooBig.Reason {
		t.Errorf("%q", got)
	}
}
