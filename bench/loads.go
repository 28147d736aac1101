package main

import (
	"time"

	"chat/internal/protocol"
)

// A loadSpec is what the generator is to do to one server.
type loadSpec struct {
	Addr        string
	PID         int
	Subprotocol string // the subprotocol to ask for; "" is the classic wire
	Listeners   int
	Speakers    int           // some of the listeners
	InFlight    int           // lines that each speaker has on their way, always; or
	Rate        float64       // lines a second that are said at fixed times, all speakers together
	Settle      time.Duration // between the last one's coming in and the first line
	WarmUp      time.Duration // between the first line and the window
	Window      time.Duration // in which deliveries and processor time are counted
	IdleTimeout time.Duration // after the last line: when nothing has come for so long, nothing will
}

// A result is what came of it. Processor time is the server's, except for OwnCPU.
type result struct {
	Joined            int           // how many came in
	JoinTime, JoinCPU time.Duration // for all of them
	Memory            int           // bytes that the server grew by when all were in

	Time, CPU, OwnCPU time.Duration // the window
	Deliveries        int           // lines heard in it, all listeners together
	P50, P99          time.Duration // from when a line was due until it was heard, where they have a rate

	Disconnected int    // connections that the server ended
	Fault        string // what the server got wrong; then nothing else counts
}

func (r result) rate() float64        { return float64(r.Deliveries) / r.Time.Seconds() }
func (r result) perDelivery() float64 { return r.CPU.Seconds() / float64(r.Deliveries) }

// dueTime is when a line is due at a fixed rate: a server that stalls finds the lines
// waiting, and their latency counts from here.
func dueTime(line int, rate float64) time.Duration {
	return time.Duration(float64(line) / rate * float64(time.Second))
}

// A load is a loadSpec with a name; only our own server is put under it if oursOnly is true.
type load struct {
	name string
	loadSpec
	oursOnly bool
}

var loads = []load{
	{name: "A", loadSpec: loadSpec{Listeners: 1000, Speakers: 10, InFlight: 1}},
	{name: "B", loadSpec: loadSpec{Listeners: 1000, Speakers: 10, InFlight: 8}},
	{name: "C", loadSpec: loadSpec{Listeners: 1000, Speakers: 200, InFlight: 1}},
	{name: "C on chat.v1", loadSpec: loadSpec{Listeners: 1000, Speakers: 200, InFlight: 1, Subprotocol: protocol.Subprotocol}, oursOnly: true},
	{name: "D", loadSpec: loadSpec{Listeners: 1000, Speakers: 200, Rate: 500}},
	{name: "E", loadSpec: loadSpec{Listeners: 1000, Speakers: 10, Rate: 50}},
	{name: "E for 100", loadSpec: loadSpec{Listeners: 100, Speakers: 10, Rate: 50}},
	{name: "E for 9,000", loadSpec: loadSpec{Listeners: 9000, Speakers: 10, Rate: 50}},
	{name: "idle", loadSpec: loadSpec{Listeners: 5000, Settle: 3 * time.Second}},
}
