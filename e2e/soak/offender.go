package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"chat/internal/protocol"
	"chat/internal/wstest"
)

const (
	answerTimeout = 15 * time.Second      // for the server to answer a breach, or to end a request that is never complete
	afterBreach   = "sent after a breach" // the text of messages that the server must not broadcast
	outOfReach    = "out of reach"        // the end of the reason for which a server closes connections while NATS does not answer
)

// errAway says that the server refused a client with 503, as it does while NATS does not answer.
var errAway = errors.New("answered with 503")

// An offender connects again and again, and breaks a rule each time.
type offender struct {
	soak   *soak
	number int     // it has an address of its own
	server *server // that it connects to now
	sent   int     // messages that others receive
	rand   *rand.Rand
}

// run commits one offence after another until end.
func (o *offender) run(rooms []*room, end time.Time) {
	for time.Now().Before(end) {
		time.Sleep(time.Duration(o.rand.Int64N(int64(2 * time.Second))))
		path := "/ws?room=" + rooms[o.rand.IntN(len(rooms))].name
		begin := time.Now()
		o.server = o.soak.server()
		requests := wstest.Requests(o.server.addr)
		conn, process, done, err := o.connect(false)
		if err != nil {
			continue
		}
		var what string
		switch n := o.rand.IntN(len(wstest.Breaches) + len(requests) + 32); {
		case n < len(wstest.Breaches):
			b := wstest.Breaches[n]
			what, err = fmt.Sprintf("breach (%d)", b.Code), o.breach(conn, path, b)
		case n < len(wstest.Breaches)+len(requests):
			r := requests[n-len(wstest.Breaches)]
			what, err = fmt.Sprintf("request (%d)", r.Status), request(conn, r)
		case n%8 == 0:
			what, err = "slow request", slowRequest(conn, o.rand.IntN(2) == 0)
		case n%8 == 1:
			what, err = "half a message", o.halfAMessage(conn, path)
		case n%8 == 2:
			done() // it dials by itself
			what, err = "idle connections", o.idle(50)
		case n%8 == 3:
			done() // it dials by itself
			what, err = "reconnecting", o.reconnect(path, 50)
		case n%8 == 4:
			done() // it dials by itself
			what, err = "slow consumers in many rooms", o.slowConsumers(10)
		case n%8 == 5:
			what, err = "empty fragments", o.flood(conn, path, wstest.Masked(wstest.Text, ""), strings.Repeat(wstest.Masked(wstest.Continuation, ""), 500))
		case n%8 == 6:
			what, err = "history", o.readHistory(conn, path, 200)
		default:
			what, err = "ping flood", o.flood(conn, path, "", strings.Repeat(wstest.Masked(wstest.Fin|wstest.Ping, strings.Repeat("!", 125)), 50))
		}
		done()
		if o.rand.IntN(2) == 0 {
			conn.SetLinger(0) // closed with a reset
		}
		conn.Close()
		o.soak.report.count("offences", what, 1)
		if errors.Is(err, errAway) && o.soak.nats {
			o.soak.report.count("offences", "answered with 503", 1)
		} else if err != nil && !process.failedSince(begin) {
			o.soak.report.fault("other", "%s: %v", what, err)
		}
	}
}

// upgrade makes a WebSocket connection of conn, and returns what to read its frames from.
func (o *offender) upgrade(conn net.Conn, path, subprotocol string) (*bufio.Reader, error) {
	io.WriteString(conn, wstest.Handshake(o.server.addr, path, subprotocol)) // if it fails, so does reading
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err == nil && resp.StatusCode == http.StatusServiceUnavailable {
		err = errAway
	} else if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("the handshake was answered with %s", resp.Status)
	}
	return reader, err
}

// breach sends a breach and a message after it. It returns an error unless the server
// closes the connection with the code that it should, and a reason.
func (o *offender) breach(conn net.Conn, path string, b wstest.Breach) error {
	reader, err := o.upgrade(conn, path, b.Subprotocol)
	if err != nil {
		return err
	}
	after := afterBreach
	if b.Subprotocol != "" {
		after = `{"text":"` + afterBreach + `"}`
	}
	go io.WriteString(conn, b.Send+wstest.Masked(wstest.Fin|wstest.Text, after)) // the server may hang up before it has all
	for {
		first, payload, err := wstest.ReadFrame(reader)
		switch {
		case err != nil:
			return fmt.Errorf("%s: no close frame: %w", b.Rule, err)
		case first != wstest.Fin|wstest.Close:
		case strings.HasSuffix(payload, "too slow"): // it was that before
			return nil
		case strings.HasSuffix(payload, outOfReach):
			return errAway
		case len(payload) < 3 || int(binary.BigEndian.Uint16([]byte(payload))) != b.Code:
			return fmt.Errorf("%s: closed with %q, want %d and a reason", b.Rule, payload, b.Code)
		default:
			return nil
		}
	}
}

// request sends a request. It returns an error unless the answer is what it should be.
func request(conn net.Conn, r wstest.Request) error {
	io.WriteString(conn, r.Send) // if it fails, so does reading
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return fmt.Errorf("%s: %w", r.What, err)
	}
	if resp.StatusCode == http.StatusServiceUnavailable {
		return errAway
	}
	name, value, _ := strings.Cut(r.Header, ": ")
	if resp.StatusCode != r.Status || resp.Header.Get(name) != value {
		return fmt.Errorf("%s: answered with %s %v, want %d %q", r.What, resp.Status, resp.Header, r.Status, r.Header)
	}
	return nil
}

// slowRequest sends half a handshake, or a header a byte at a time. It returns an error
// unless the server ends the connection.
func slowRequest(conn net.Conn, half bool) error {
	io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: ")
	go func() {
		for err := error(nil); err == nil && !half; time.Sleep(300 * time.Millisecond) {
			_, err = conn.Write([]byte("x"))
		}
	}()
	_, err := io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("not ended: %w", err)
	}
	return nil
}

// halfAMessage sends most of a long message and falls silent. It returns an error unless the
// server closes the connection.
func (o *offender) halfAMessage(conn net.Conn, path string) error {
	reader, err := o.upgrade(conn, path, protocol.Subprotocol)
	if err != nil {
		return err
	}
	io.WriteString(conn, wstest.Lying(wstest.Fin|wstest.Text, protocol.MaxClientFrame, strings.Repeat("x", protocol.MaxClientFrame-8)))
	for {
		first, _, err := wstest.ReadFrame(reader)
		switch {
		case err != nil:
			return fmt.Errorf("no close frame: %w", err)
		case first == wstest.Fin|wstest.Close:
			return nil
		}
	}
}

// connect opens a connection as dial does, on which an answer must come in time.
func (o *offender) connect(slow bool) (*net.TCPConn, *process, func(), error) {
	conn, process, done, err := o.server.dial(o.number, slow)
	if err != nil {
		return nil, nil, nil, err
	}
	conn.SetDeadline(time.Now().Add(o.soak.patience(answerTimeout)))
	return conn, process, sync.OnceFunc(done), nil
}

// idle opens connections and sends nothing. It returns an error unless the server closes
// them.
func (o *offender) idle(n int) error {
	var last net.Conn
	for range n + 1 {
		conn, _, done, err := o.connect(false)
		if err != nil {
			return nil // the server was stopped
		}
		done()
		defer conn.Close()
		last = conn
	}
	if _, err := io.Copy(io.Discard, last); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("not closed: %w", err)
	}
	return nil
}

// reconnect connects again and again, says as much as a connection may at once, and leaves.
func (o *offender) reconnect(path string, n int) error {
	for range n {
		conn, _, done, err := o.connect(false)
		if err != nil {
			return nil // the server was stopped
		}
		_, err = o.upgrade(conn, path, "")
		done()
		for range 100 {
			o.sent++
			if err == nil {
				_, err = io.WriteString(conn, wstest.Masked(wstest.Fin|wstest.Text, fmt.Sprintf("offender %d says %d", o.number, o.sent)))
			}
		}
		conn.Close()
	}
	return nil
}

// slowConsumers connects to rooms, two times each, reads nothing, and says in each what fills
// the queues.
func (o *offender) slowConsumers(rooms int) error {
	frame := wstest.Masked(wstest.Fin|wstest.Text, `{"text":"`+strings.Repeat(`\\`, protocol.MaxText)+`"}`)
	for n := range 2 * rooms {
		conn, _, done, err := o.connect(true)
		if err != nil {
			return nil // the server was stopped
		}
		defer conn.Close()
		_, err = o.upgrade(conn, fmt.Sprintf("/ws?room=slow-%d-%d", o.number, n/2), protocol.Subprotocol)
		done()
		if err != nil {
			return nil
		}
		go func() {
			for err := error(nil); err == nil; _, err = io.WriteString(conn, frame) {
			}
		}()
	}
	time.Sleep(5 * time.Second)
	return nil
}

// readHistory asks for a room's history n times in a row, which is more than an address may.
// It returns an error unless each answer is whole lines, or says that it was too often.
func (o *offender) readHistory(conn net.Conn, path string, n int) error {
	get := wstest.PlainGet(o.server.addr, strings.Replace(path, "/ws", "/history", 1))
	go io.WriteString(conn, strings.Repeat(get, n)) // if it fails, so does reading
	reader := bufio.NewReader(conn)
	for range n {
		conn.SetReadDeadline(time.Now().Add(o.soak.patience(answerTimeout))) // for each answer
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "" {
			continue
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("answered with %s %.100q", resp.Status, body)
		}
		for line := range bytes.Lines(body) {
			if _, err := protocol.DecodeMessage(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
				return fmt.Errorf("%.100q: %w", line, err)
			}
		}
	}
	return nil
}

// flood sends first, then more and more for some seconds, and reads nothing. The server may
// end the connection or throttle it.
func (o *offender) flood(conn net.Conn, path, first, more string) error {
	if _, err := o.upgrade(conn, path, ""); err != nil {
		return err
	}
	io.WriteString(conn, first)
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		conn.SetWriteDeadline(until)
		if _, err := io.WriteString(conn, more); err != nil {
			return nil
		}
	}
	return nil
}
