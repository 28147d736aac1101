package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// run puts a fresh server process of a program under a load, with a fresh NATS node beside it if
// the program needs one. When it returns, the processes are gone. They also end with this one,
// however that ends.
func run(ctx context.Context, p program, spec loadSpec) (result, error) {
	addr, err := freeAddr()
	if err != nil {
		return result{}, err
	}
	args := p.argsFor(addr.String())
	node := 0
	if p.node != "" {
		natsAddr, err := freeAddr()
		if err != nil {
			return result{}, err
		}
		store, err := os.MkdirTemp("", "bench")
		if err != nil {
			return result{}, err
		}
		defer os.RemoveAll(store)
		cmd := exec.Command(p.node, "-js", "-sd", store, "-a", natsAddr.Addr().String(), "-p", fmt.Sprint(natsAddr.Port()))
		stop, err := start(cmd, natsAddr)
		if err != nil {
			return result{}, err
		}
		defer stop()
		node = cmd.Process.Pid
		args = append(args, "-nats", "nats://"+natsAddr.String())
	}
	server := exec.Command(p.path, args...)
	server.Dir = p.dir
	if spec.procs > 0 {
		server.Env = append(os.Environ(), fmt.Sprint("GOMAXPROCS=", spec.procs))
	}
	stop, err := start(server, addr)
	if err != nil {
		return result{}, err
	}
	defer stop()
	return generate(ctx, spec, addr, server.Process.Pid, node)
}

// start starts a process and returns when it listens on addr. The caller calls stop, which
// ends it.
func start(cmd *exec.Cmd, addr netip.AddrPort) (stop func(), err error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		cmd.Process.Kill() // an error says that it has ended
		cmd.Wait()         // an error says that it was killed
	}
	if err := awaitListener(addr); err != nil {
		stop() // or its goroutine may still write to stderr
		return nil, fmt.Errorf("%s does not listen: %w\n%s", cmd.Path, err, stderr.Bytes())
	}
	return stop, nil
}

// freeAddr returns an address of this machine alone on which nothing listens.
func freeAddr() (netip.AddrPort, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return netip.ParseAddrPort(l.Addr().String())
}

// awaitListener waits, at most five seconds, until something accepts a connection.
func awaitListener(addr netip.AddrPort) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp4", addr.String())
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}
