package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// talker is the name by which the tests run themselves to talk TCP.
const talker = "talk"

// talking is that, for ever.
func talking() *exec.Cmd { return exec.Command(filepath.Join(bin, talker), "sleep", "infinity") }

// talk runs a command while it talks to itself over loopback, on the port PORT, and is the command's exit status. Each
// request is two small writes, the second of which waits for the other end's delayed acknowledgement; now and then
// it tries a port at which nobody listens. It sends itself datagrams, too.
func talk(command []string) int {
	port, err := converse()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), fmt.Sprint("PORT=", port))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// converse answers requests, and makes them, until the process ends.
func converse() (port int, err error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port = listener.Addr().(*net.TCPAddr).Port
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				request := make([]byte, 200)
				for {
					if _, err := io.ReadFull(c, request); err != nil {
						return
					}
					if _, err := c.Write(request[:50]); err != nil {
						return
					}
				}
			}()
		}
	}()
	datagrams, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	go func() {
		for buf := make([]byte, 100); ; time.Sleep(10 * time.Millisecond) {
			if _, err := datagrams.WriteTo(buf, datagrams.LocalAddr()); err == nil {
				datagrams.ReadFrom(buf)
			}
		}
	}()
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	if err := closed.Close(); err != nil {
		return 0, err
	}
	go func() {
		for {
			if refused, err := net.Dial("tcp4", closed.Addr().String()); err == nil {
				refused.Close()
			}
			if err := request(listener.Addr().String(), 10); err != nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}()
	return port, nil
}

// request makes some over one connection.
func request(address string, times int) error {
	c, err := net.Dial("tcp4", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetNoDelay(false); err != nil {
		return err
	}
	half := make([]byte, 100)
	for range times {
		for range 2 {
			if _, err := c.Write(half); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(c, half[:50]); err != nil {
			return err
		}
	}
	return nil
}
