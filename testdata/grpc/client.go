package grpckv

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Client speaks one version of the protocol to one node, over one connection
// that grpc-go makes anew when it ends. It never repeats a call by itself, but
// for those of which HTTP/2 says that the other end has not begun with them
// (RFC 9113, 6.8 and 8.7), as every gRPC client may.
type Client struct {
	conn    *grpc.ClientConn
	version int
}

// Dial makes no call. addr is the node's host:port.
func Dial(version int, addr string) (*Client, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithNoProxy())
	if err != nil {
		return nil, fmt.Errorf("gRPC client of %s: %w", addr, err)
	}
	return &Client{conn: conn, version: version}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// name is the full name of a method that versions 1 and 2 call old.
func (c *Client) name(old, v3 string) string {
	method := old
	if c.version >= 3 {
		method = v3
	}
	return "/" + serviceOf(c.version) + "/" + method
}

func (c *Client) call(ctx context.Context, method string, in, out proto.Message) error {
	return c.conn.Invoke(ctx, method, in, out)
}

// Get reads a key.
func (c *Client) Get(ctx context.Context, key string) (string, error) {
	var value wrapperspb.StringValue
	err := c.call(ctx, c.name("Get", "Read"), wrapperspb.String(key), &value)
	return value.GetValue(), err
}

// Set writes a key.
func (c *Client) Set(ctx context.Context, key, value string) error {
	pair, err := pack(key, value)
	if err != nil {
		return err
	}
	return c.call(ctx, c.name("Set", "Write"), pair, &emptypb.Empty{})
}

// Delete removes a key. In version 3 it returns the value.
func (c *Client) Delete(ctx context.Context, key string) (string, error) {
	if c.version < 3 {
		return "", c.call(ctx, c.name("Delete", ""), wrapperspb.String(key), &emptypb.Empty{})
	}
	var value wrapperspb.StringValue
	err := c.call(ctx, c.name("", "Remove"), wrapperspb.String(key), &value)
	return value.GetValue(), err
}

// Clear removes all keys; version 3 has no such call.
func (c *Client) Clear(ctx context.Context) error {
	return c.call(ctx, c.name("Clear", "Clear"), &emptypb.Empty{}, &emptypb.Empty{})
}

// Swap replaces a value if it is old; only version 3 can.
func (c *Client) Swap(ctx context.Context, key, old, value string) error {
	in, err := structpb.NewStruct(map[string]any{"key": key, "old": old, "value": value})
	if err != nil {
		return err
	}
	return c.call(ctx, c.name("Swap", "Swap"), in, &emptypb.Empty{})
}

// List returns all keys.
func (c *Client) List(ctx context.Context) (keys []string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, c.name("List", "List"))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(stream.SendMsg(&emptypb.Empty{}), stream.CloseSend()); err != nil {
		return nil, err
	}
	for {
		var key wrapperspb.StringValue
		err := stream.RecvMsg(&key)
		if errors.Is(err, io.EOF) {
			return keys, nil
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, key.GetValue())
	}
}
