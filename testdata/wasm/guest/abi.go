//go:build wasip1

package guest

import "unsafe"

//go:wasmimport http_handler enable_features
func enableFeatures(features uint32) uint32

//go:wasmimport http_handler get_config
func getConfig(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_method
func getMethod(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_uri
func getURI(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler set_uri
func setURI(uri string)

//go:wasmimport http_handler set_header_value
func setHeader(kind uint32, name, value string)

//go:wasmimport http_handler read_body
func readBody(kind uint32, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport http_handler write_body
func writeBody(kind uint32, body unsafe.Pointer, n uint32)

//go:wasmimport http_handler get_status_code
func getStatus() uint32

//go:wasmimport http_handler set_status_code
func setStatus(status uint32)

//go:wasmimport http_handler log
func logLine(level int32, text string)

//go:wasmimport moult from_version
func fromVersion() uint64

//go:wasmimport moult to_version
func toVersion() uint64

//go:wasmimport moult deny
func deny(status uint32, reason string)

//go:wasmimport moult observed_number
func observedNumber() uint64

//go:wasmimport moult observed_missed
func observedMissed() uint64

//go:wasmimport moult observed_truncated
func observedTruncated() uint32

//go:wasmimport moult observed_service
func observedService(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport moult observed_why
func observedWhy(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport moult next_new
func nextNew(method, uri string) uint32

//go:wasmimport moult next_copy_headers
func nextCopyHeaders(call uint32)

//go:wasmimport moult next_set_header
func nextSetHeader(call uint32, name, value string)

//go:wasmimport moult next_write_body
func nextWriteBody(call uint32, body unsafe.Pointer, n uint32)

//go:wasmimport moult next_send
func nextSend(call uint32) int32

//go:wasmimport moult next_read_body
func nextReadBody(call uint32, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport moult next_raise
func nextRaise(call uint32)

//go:wasmimport moult next_close
func nextClose(call uint32)

//go:wasmimport moult state_get
func stateGet(key string, buf unsafe.Pointer, limit uint32) int64

//go:wasmimport moult state_set
func stateSet(key string, value unsafe.Pointer, n uint32) int32

//go:wasmimport moult state_delete
func stateDelete(key string) int32

//go:wasmimport moult state_list
func stateList(prefix, after string, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport moult state_apply
func stateApply(ops unsafe.Pointer, n uint32) int32
