package main

import (
	"time"

	"chat/internal/protocol"
)

// A loadSpec is what the clients of a run do.
type loadSpec struct {
	name        string
	subprotocol string        // that they ask for; "" for the classic protocol
	oursOnly    bool          // the example does not speak the subprotocol
	procs       int           // GOMAXPROCS of the server; 0 for its default
	listeners   int           // all clients
	speakers    int           // how many of them send lines, too
	inFlight    int           // lines that each speaker has sent and not received, always (closed loop); or
	rate        float64       // lines a second that are sent at fixed times, all speakers together (open loop)
	settle      time.Duration // from the last handshake to the first line
	warmUp      time.Duration // from the first line to the window
	window      time.Duration // in which deliveries and CPU time are counted
	idleTimeout time.Duration // after the last line: what has not come when this passes without any is lost
}

// loads are the loads of a round, without the times that are the same for all.
var loads = []loadSpec{
	{name: "A", listeners: 1000, speakers: 10, inFlight: 1},
	{name: "A on 1", listeners: 1000, speakers: 10, inFlight: 1, procs: 1},
	{name: "A on 2", listeners: 1000, speakers: 10, inFlight: 1, procs: 2},
	{name: "B", listeners: 1000, speakers: 10, inFlight: 8},
	{name: "C", listeners: 1000, speakers: 200, inFlight: 1},
	{name: "C on chat.v1", listeners: 1000, speakers: 200, inFlight: 1, subprotocol: protocol.Subprotocol, oursOnly: true},
	{name: "D", listeners: 1000, speakers: 200, rate: 500},
	{name: "E", listeners: 1000, speakers: 10, rate: 50},
	{name: "E for 100", listeners: 100, speakers: 10, rate: 50},
	{name: "E for 9,000", listeners: 9000, speakers: 10, rate: 50},
	{name: "K", listeners: 50, speakers: 1, rate: 20},
	{name: "idle", listeners: 5000, settle: 3 * time.Second},
}

// dueTime returns when a line is due at a fixed rate, after the first. Latency counts from
// here, so that lines which wait for a stalled server are not measured too well
// (coordinated omission).
func dueTime(line int, rate float64) time.Duration {
	return time.Duration(float64(line) / rate * float64(time.Second))
}

// A result is what a run measured. CPU time is the server's unless it says otherwise.
type result struct {
	joined            int           // clients whose handshake succeeded
	joinTime, joinCPU time.Duration // for all of them
	memory            int           // bytes that the server's resident memory grew by, with all idle

	time, cpu, ownCPU time.Duration // length of the window, and CPU time in it; own is the generator's
	nodeCPU           time.Duration // the same of the NATS node beside the server, if there is one
	deliveries        int           // lines received in the window, all clients together
	p50, p99          time.Duration // latency at a fixed rate, from when a line was due until it was received

	disconnected int    // connections that the server ended
	fault        string // what the server got wrong; if not "", nothing else counts
}
