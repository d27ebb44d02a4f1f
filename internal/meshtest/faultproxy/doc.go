// Package faultproxy is a bad network for tests: a TCP proxy on the loopback interface that can slow its connections down,
// lose what they carry, refuse them, and cut one after an exact number of bytes.
package faultproxy
