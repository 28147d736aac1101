package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/protocol"
	"chat/internal/wstest"
)

// FuzzWire sends any bytes to a running server after the handshake of either protocol,
// while one client speaks and another one, the witness, receives. The witness receives the
// speaker's next message, and nothing that is not a clean line.
func FuzzWire(f *testing.F) {
	for _, breach := range wstest.Breaches {
		f.Add(breach.Subprotocol, []byte(breach.Send))
	}
	for _, oddity := range wstest.Oddities {
		f.Add("", []byte(oddity.Send))
	}
	f.Add("chat.v1", []byte(wstest.Masked(wstest.Fin|wstest.Text, `{"text":"hello","ref":"r"}`)+wstest.Masked(wstest.Fin|wstest.Text, `{"text":"hello","ref":"r"}`)))
	f.Add("chat.v1", []byte(wstest.Masked(wstest.Fin|wstest.Text, `{"text":"\u2028\ud800","ref":["r"]}`)))
	f.Add("chat.v1", []byte(wstest.Masked(wstest.Fin|wstest.Text, `{"text":"\n  one\r\n\ttwo\u2029three\n"}`)))
	addr, _ := listenAndServe(f)
	speaker, witness := enter(f, addr), enter(f, addr)
	speaker.SetReadDeadline(time.Time{})
	go io.Copy(io.Discard, speaker.NetConn())
	turn := 0

	f.Fuzz(func(t *testing.T, subprotocol string, data []byte) {
		if subprotocol != "chat.v1" {
			subprotocol = "" // as good as any other
		}
		rogue, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer rogue.Close()
		rogue.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(rogue, wstest.Handshake("chat.test", "/ws", subprotocol))
		rogue.Write(data) // an error says that it was disconnected before the end
		rogue.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, rogue); isTimeout(err) {
			t.Errorf("%q keeps its connection open", data)
		}

		turn++
		question := fmt.Sprint("question ", turn)
		if err := speaker.WriteMessage(websocket.TextMessage, []byte(question)); err != nil {
			t.Fatal(err)
		}
		witness.SetReadDeadline(time.Now().Add(10 * time.Second))
		for {
			_, text, err := witness.ReadMessage()
			if err != nil {
				t.Fatalf("after %q the witness got %v", data, err)
			}
			for line := range strings.SplitSeq(string(text), "\n") {
				if line == question {
					return
				}
				if protocol.CleanLine(line) != line || line == "" || bytes.ContainsRune([]byte(line), 0) {
					t.Errorf("after %q the witness received %q", data, line)
				}
			}
		}
	})
}
