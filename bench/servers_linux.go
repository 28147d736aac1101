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

// run puts a fresh server process of a program under a load. When it returns, the process
// is gone. The process also ends with this one, however that ends.
func run(ctx context.Context, p program, spec loadSpec) (result, error) {
	addr, err := freeAddr()
	if err != nil {
		return result{}, err
	}
	var stderr bytes.Buffer
	server := exec.Command(p.path, p.argsFor(addr.String())...)
	server.Dir = p.dir
	if spec.procs > 0 {
		server.Env = append(os.Environ(), fmt.Sprint("GOMAXPROCS=", spec.procs))
	}
	server.Stderr = &stderr
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		return result{}, err
	}
	stop := func() {
		server.Process.Kill() // an error says that it has ended
		server.Wait()         // an error says that it was killed
	}
	defer stop()
	if err := awaitListener(addr); err != nil {
		stop() // or its goroutine may still write to stderr
		return result{}, fmt.Errorf("%s does not listen: %w\n%s", p.name, err, stderr.Bytes())
	}
	return generate(ctx, spec, addr, server.Process.Pid)
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
