package inbound

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/cork"
	"chat/internal/protocol"
	"chat/internal/wstest"
)

// source is a connection from which these reads come, each as long as the reader lets it.
type source struct {
	net.Conn
	r io.Reader
}

func (s source) Read(p []byte) (int, error) { return s.r.Read(p) }

// readAll reads through a Conn, so many bytes at a time.
func readAll(send string, size int) (passed string, err error) {
	c := &Conn{Conn: cork.New(source{r: strings.NewReader(send)}), Limit: 100}
	var all strings.Builder
	buf := make([]byte, size)
	for {
		n, err := c.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			return all.String(), err
		}
	}
}

func TestInspect(t *testing.T) {
	const (
		fin  = wstest.Fin
		text = wstest.Text
		more = wstest.Continuation
	)
	x := func(n int) string { return strings.Repeat("x", n) }
	good := wstest.Masked(fin|text, x(100)) + wstest.Masked(fin|wstest.Ping, x(125)) + "\x81\x03abc"
	for _, row := range []struct {
		what      string
		good, bad string
		err       error
	}{
		{"good frames", good, "", io.EOF},
		{"fragments up to the limit", wstest.Masked(text, x(50)) + wstest.Masked(fin|wstest.Ping, x(125)) + wstest.Masked(fin|more, x(50)), "", io.EOF},
		{"binary, for the library to refuse", wstest.Lying(fin|wstest.Binary, 1<<40, x(200)), "", io.EOF},
		{"lengths in more bytes than they need", "\x81\xff\x00\x00\x00\x00\x00\x00\x00\x05mask....." + "\x81\xfe\x00\x05mask....." + good, "", io.EOF},
		{"one byte too long", good, wstest.Masked(fin|text, x(101)), protocol.MessageTooBig},
		{"fragments, one byte too long", wstest.Masked(text, x(50)) + wstest.Masked(more, x(50)), wstest.Masked(fin|more, "x"), protocol.MessageTooBig},
		{"a length in 16 bits", good, wstest.Lying(fin|text, 1<<15, "and?"), protocol.MessageTooBig},
		{"a length in 64 bits", good, wstest.Lying(fin|text, 1<<40, "and?"), protocol.MessageTooBig},
		{"a fragment that promises all there is", wstest.Masked(text, "x"), wstest.Lying(more, 1<<63-1, "and?"), protocol.MessageTooBig},
		{"a length that would overflow", wstest.Masked(text, "x"), wstest.Lying(more, 1<<64-1, "and?"), protocol.MessageTooBig},
		{"an empty close", wstest.Masked(fin|wstest.Close, ""), "", io.EOF},
		{"half a close code", good, wstest.Masked(fin|wstest.Close, "x"), protocol.ProtocolError("close frame of one byte")},
	} {
		for _, size := range []int{1, 2, 3, 7, 64, 512, 4096} {
			passed, err := readAll(row.good+row.bad, size)
			// Of a header that comes in parts, the first parts pass.
			if err != row.err || !strings.HasPrefix(passed, row.good) || len(passed) > len(row.good)+10 {
				t.Errorf("%s, %d bytes at a time: %d bytes passed, want %d, then %v, want %v", row.what, size, len(passed), len(row.good), err, row.err)
			}
		}
	}
}

// Fragments come as fast as maxFragments allows, and whole messages as fast as they are.
func TestFragmentsArePaced(t *testing.T) {
	for _, flood := range []struct {
		what, frame string
		want        time.Duration // for 10 times maxFragments
	}{
		{"empty fragments", wstest.Masked(wstest.Continuation, ""), 9 * period},
		{"first fragments", wstest.Masked(wstest.Text, ""), 9 * period},
		{"messages", wstest.Masked(wstest.Fin|wstest.Text, ""), 0},
		{"pings", wstest.Masked(wstest.Fin|wstest.Ping, ""), 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			if _, err := readAll(strings.Repeat(flood.frame, 10*maxFragments), 512); err != io.EOF {
				t.Error(err)
			}
			took := time.Since(begin)
			if took < flood.want-period || took > flood.want+period {
				t.Errorf("%s took %v, want %v", flood.what, took, flood.want)
			}
		})
	}
}

// Slow fragments are not paced, however many they become.
func TestSlowFragments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := net.Pipe()
		defer in.Close()
		c := &Conn{Conn: cork.New(in), Limit: 100}
		go func() {
			defer out.Close()
			for range 3 * maxFragments {
				io.WriteString(out, wstest.Masked(wstest.Continuation, ""))
				time.Sleep(time.Millisecond)
			}
		}()
		begin := time.Now()
		buf := make([]byte, 512)
		for err := error(nil); err == nil; _, err = c.Read(buf) {
		}
		if took, want := time.Since(begin), 3*maxFragments*time.Millisecond; took != want {
			t.Errorf("took %v, want %v", took, want)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	frame := wstest.Masked(wstest.Fin|wstest.Text, strings.Repeat("x", 64))
	r := strings.NewReader(frame)
	c := &Conn{Conn: cork.New(source{r: r}), Limit: 4096}
	buf := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(frame)
		c.Read(buf)
	}
}
