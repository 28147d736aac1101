package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
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

// FuzzHistory asks a running server for the history with any query, Host and Origin. It is
// answered with whole messages, those before the id that was asked for, or told why not.
func FuzzHistory(f *testing.F) {
	f.Add("", "chat.test", "")
	f.Add("room=team&before=1", "", "http://chat.test")
	f.Add("before=9223372036854775807", "[::1]:80", "null")
	f.Add("before=9223372036854775808", "a:b:c", "http://[::1")
	f.Add("room=%zz;", "a", "")
	addr, _ := listenAndServe(f)
	enter(f, addr) // which says something
	transport := &http.Transport{}
	f.Cleanup(transport.CloseIdleConnections)
	healthy, err := http.NewRequest("GET", "http://"+addr+"/healthz", nil)
	if err != nil {
		f.Fatal(err)
	}

	f.Fuzz(func(t *testing.T, query, host, origin string) {
		r := &http.Request{URL: &url.URL{Scheme: "http", Host: addr, Path: "/history", RawQuery: query}, Host: host, Header: http.Header{}}
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			if resp, err = transport.RoundTrip(healthy); err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			t.Skip() // it was no request
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		values, _ := url.ParseQuery(query)
		before := values.Get("before")
		switch {
		case err != nil:
			t.Error(err)
		case resp.StatusCode == http.StatusBadRequest, resp.StatusCode == http.StatusForbidden:
		case resp.StatusCode != http.StatusOK:
			t.Errorf("%s %q", resp.Status, body)
		case len(body) > 0:
			for line := range bytes.Lines(body) {
				m, err := protocol.DecodeMessage(bytes.TrimSuffix(line, []byte("\n")))
				id, _ := strconv.ParseInt(before, 10, 64)
				if err != nil || before != "" && m.ID >= id {
					t.Errorf("before %q is %q, %v", before, line, err)
				}
			}
		}
	})
}
