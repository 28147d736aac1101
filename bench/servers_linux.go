package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// run puts one program under one load: a fresh server process, and the generator in
// another. When it returns, both are gone.
func run(ctx context.Context, p program, spec loadSpec) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, joinLimit+drainLimit+spec.Settle+spec.WarmUp+spec.Window+10*time.Second)
	defer cancel()

	addr, err := freeAddr()
	if err != nil {
		return result{}, err
	}
	var stderr bytes.Buffer
	server := command(ctx, p.path, append([]string{"-addr", addr}, p.args...)...)
	server.Dir = p.dir
	server.Stderr = &stderr
	if err := server.Start(); err != nil {
		return result{}, err
	}
	stop := func() {
		server.Process.Kill() // an error says that it is gone already
		server.Wait()
	}
	defer stop()
	if err := awaitListener(ctx, addr); err != nil {
		stop()
		return result{}, fmt.Errorf("%s does not come up: %w\n%s", p.name, err, stderr.Bytes())
	}

	spec.Addr, spec.PID = addr, server.Process.Pid
	request, err := json.Marshal(spec)
	if err != nil {
		return result{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	generator := command(ctx, self, generatorCommand)
	generator.Stdin = bytes.NewReader(request)
	generator.Stderr = os.Stderr
	answer, err := generator.Output()
	if err != nil {
		return result{}, fmt.Errorf("load generator: %w", err)
	}
	var r result
	err = json.Unmarshal(answer, &r)
	return r, err
}

// command returns a command that dies with ctx, and with this process however that ends.
func command(ctx context.Context, path string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, path, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// freeAddr returns an address of this machine alone on which nothing listens.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// awaitListener waits until something accepts connections on addr.
func awaitListener(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp4", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}
