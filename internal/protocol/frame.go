package protocol

import (
	"encoding/binary"
	"slices"
)

// PingFrame is a ping to a client, without a payload. Nobody may change it.
var PingFrame = []byte{0x89, 0}

// CloseFrame returns a close frame to a client.
func CloseFrame(d Disconnect) []byte {
	frame := binary.BigEndian.AppendUint16([]byte{0x88, byte(2 + len(d.Reason))}, uint16(d.Code))
	return append(frame, d.Reason...)
}

// textFrame is the first byte of a text message to a client in one frame (RFC 6455, section
// 5.2).
const textFrame = 0x81

// frameHeader is the length in bytes of the header of a frame that has MaxFrame bytes.
const frameHeader = 4

// A TextFrame is a frame to a client, made of text that is added to it: MaxFrame bytes at
// most. Its zero value is empty and ready for use.
type TextFrame struct {
	buf []byte // room for the header, then the text
}

// Add adds text at the end.
func (f *TextFrame) Add(text []byte) {
	if len(f.buf) == 0 {
		f.buf = append(slices.Grow(f.buf, frameHeader+len(text)), make([]byte, frameHeader)...)
	}
	f.buf = append(f.buf, text...)
}

// Text returns what was added, which is a part of the frame. There must be some.
func (f *TextFrame) Text() []byte { return f.buf[frameHeader:] }

// Bytes returns the frame, which must have text. They are valid until more is added.
func (f *TextFrame) Bytes() []byte {
	length := len(f.Text())
	if length <= 125 {
		frame := f.buf[frameHeader-2:]
		frame[0], frame[1] = textFrame, byte(length)
		return frame
	}
	f.buf[0], f.buf[1] = textFrame, 126
	binary.BigEndian.PutUint16(f.buf[2:], uint16(length))
	return f.buf
}

// Reset empties the frame, and keeps its memory for other text.
func (f *TextFrame) Reset() { f.buf = f.buf[:0] }
