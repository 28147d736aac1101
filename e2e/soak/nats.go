package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"chat/e2e/engine"
)

const (
	numNodes = 3
	maxDown  = 15 * time.Second // for what is killed, frozen or cut off
)

// startCluster starts the nodes, and a line from each server to each node.
func (s *soak) startCluster(dir string) error {
	program, err := engine.Build(dir)
	if err != nil {
		return err
	}
	if s.cluster, err = engine.Start(program, dir, numNodes); err != nil {
		return err
	}
	for _, server := range s.servers {
		lines, urls, err := s.cluster.Lines()
		if err != nil {
			return err
		}
		server.lines = lines
		server.args = []string{"-nats", urls, "-nats-replicas", fmt.Sprint(numNodes)}
	}
	return nil
}

// disturb lets servers, nodes and lines fail, until a fifth of the duration is left. It
// returns when all is well again.
func (s *soak) disturb(begin time.Time, duration time.Duration) error {
	end := begin.Add(duration * 8 / 10)
	var loops sync.WaitGroup
	errs := make(chan error, 3)
	for i, fault := range []func(*rand.Rand, time.Duration) error{s.disturbServer, s.disturbNode, s.disturbLines} {
		random := rand.New(rand.NewPCG(s.seed, uint64(i)))
		loops.Go(func() {
			for {
				time.Sleep(time.Second + time.Duration(random.Int64N(int64(8*time.Second))))
				d := time.Duration(random.Int64N(int64(maxDown)))
				if time.Now().Add(d).After(end) {
					return
				}
				if err := fault(random, d); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	loops.Wait()
	close(errs)
	return <-errs
}

// disturbServer stops, kills or freezes a server. It is back after d.
func (s *soak) disturbServer(random *rand.Rand, d time.Duration) error {
	server := s.servers[random.IntN(len(s.servers))]
	switch random.IntN(3) {
	case 0:
		return server.restart(syscall.SIGTERM, d/10)
	case 1:
		return server.restart(syscall.SIGKILL, d)
	}
	s.report.count("server", "frozen", 1)
	p := server.running.Load()
	p.thawed.Store(math.MaxInt64)
	p.cmd.Process.Signal(syscall.SIGSTOP)
	time.Sleep(d)
	err := p.cmd.Process.Signal(syscall.SIGCONT)
	p.thawed.Store(time.Now().UnixMicro())
	return err
}

// disturbNode kills, stops or freezes a node, often the one that leads the log, or kills
// several. All are back after d.
func (s *soak) disturbNode(random *rand.Rand, d time.Duration) error {
	node, what := s.cluster.Nodes[random.IntN(numNodes)], "any node"
	if random.IntN(2) == 0 {
		if leader, _, err := s.cluster.Roles("CHAT"); err == nil {
			node, what = leader, "the leader"
		}
	}
	victims := []*engine.Node{node}
	switch random.IntN(6) {
	case 0, 1:
		s.report.count("nodes", what+" frozen", 1)
		node.Freeze()
		time.Sleep(d)
		node.Thaw()
		return nil
	case 2:
		s.report.count("nodes", what+" stopped", 1)
		node.Stop()
	case 3:
		victims = s.cluster.Nodes[:2+random.IntN(2)]
		s.report.count("nodes", fmt.Sprint(len(victims), " killed at once"), 1)
	default:
		s.report.count("nodes", what+" killed", 1)
	}
	for _, n := range victims {
		n.Kill()
	}
	time.Sleep(d)
	for _, n := range victims {
		if err := n.Start(); err != nil {
			return err
		}
	}
	return nil
}

// disturbLines cuts or freezes the lines of a server to all nodes or to one, or those of a node
// to the others, for d.
func (s *soak) disturbLines(random *rand.Rand, d time.Duration) error {
	lines, what := s.servers[random.IntN(len(s.servers))].lines, "a server and all nodes"
	switch random.IntN(3) {
	case 0:
		i := random.IntN(numNodes)
		lines, what = lines[i:i+1], "a server and a node"
	case 1:
		lines, what = s.cluster.Routes(s.cluster.Nodes[random.IntN(numNodes)]), "a node and the others"
	}
	fail, how := (*engine.Line).Cut, "cut between "
	if random.IntN(2) == 0 {
		fail, how = (*engine.Line).Freeze, "frozen between "
	}
	s.report.count("lines", how+what, 1)
	for _, l := range lines {
		fail(l)
	}
	time.Sleep(d)
	for _, l := range lines {
		if err := l.Mend(); err != nil {
			return err
		}
	}
	return nil
}
