// A libnvidia-ml.so.1 of a machine that a test chooses. Structures and numbers as in NVIDIA's nvml.h.
#include <cstdio>
#include <cstring>

namespace {

struct Machine {
  int num_gpus = 4;
  int num_links = 18;
  bool has_switch = true;
  bool is_rack = false;
  int init_status = 0;     // what nvmlInit returns
  int query_status = 0;    // what all calls about a device return but those for its handle and address
  int inactive_link = -1;  // of GPU 1
};
Machine machine;
int num_inits = 0;

long index_of(void* device) { return reinterpret_cast<long>(device) - 1; }
// Listed against their order on the bus: GPU 0 of NVML is the last.
unsigned bus_of(long index) { return 0x10u + 0x10u * static_cast<unsigned>(machine.num_gpus - index); }

}  // namespace

extern "C" {

struct PciInfo {
  char bus_id_legacy[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];
};

void fake_set(int num_gpus, int num_links, int has_switch, int is_rack, int init_status, int query_status,
              int inactive_link) {
  machine = {num_gpus, num_links, has_switch != 0, is_rack != 0, init_status, query_status, inactive_link};
}
int fake_num_inits() { return num_inits; }

int nvmlInit_v2() {
  if (machine.init_status == 0) ++num_inits;
  return machine.init_status;
}
int nvmlShutdown() {
  --num_inits;
  return 0;
}
const char* nvmlErrorString(int status) { return status == 18 ? "Driver/library version mismatch" : "Not Supported"; }
int nvmlSystemGetDriverVersion(char* version, unsigned length) {
  std::snprintf(version, length, "580.95.05");
  return 0;
}
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = static_cast<unsigned>(machine.num_gpus);
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = reinterpret_cast<void*>(static_cast<long>(index) + 1);
  return 0;
}
int nvmlDeviceGetPciInfo_v3(void* device, PciInfo* info) {
  *info = {};
  info->bus = bus_of(index_of(device));
  std::snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", info->bus);
  return 0;
}
int nvmlDeviceGetName(void*, char* name, unsigned length) {
  std::snprintf(name, length, "NVIDIA H200");
  return machine.query_status;
}
int nvmlDeviceGetMemoryInfo(void*, unsigned long long* memory) {
  memory[0] = 143771ull << 20;
  memory[1] = memory[2] = 0;
  return machine.query_status;
}
int nvmlDeviceGetCudaComputeCapability(void*, int* major, int* minor) {
  *major = 9;
  *minor = 0;
  return machine.query_status;
}
int nvmlDeviceGetNvLinkState(void* device, unsigned link, int* is_active) {
  if (machine.query_status != 0) return machine.query_status;
  if (static_cast<int>(link) >= machine.num_links) return 2;
  *is_active = !(bus_of(index_of(device)) == 0x30 && static_cast<int>(link) == machine.inactive_link);
  return 0;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(void*, unsigned, int* type) {
  *type = machine.has_switch ? 2 : 0;
  return machine.query_status;
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void* device, unsigned link, PciInfo* info) {
  *info = {};
  const long peers = machine.num_gpus - 1, peer = static_cast<long>(link) % peers;
  info->bus = bus_of(peer >= index_of(device) ? peer + 1 : peer);
  return machine.query_status;
}
int nvmlDeviceGetCurrPcieLinkGeneration(void*, unsigned* value) {
  *value = 5;
  return machine.query_status;
}
int nvmlDeviceGetMaxPcieLinkGeneration(void*, unsigned* value) {
  *value = 5;
  return machine.query_status;
}
int nvmlDeviceGetCurrPcieLinkWidth(void*, unsigned* value) {
  *value = 8;
  return machine.query_status;
}
int nvmlDeviceGetMaxPcieLinkWidth(void*, unsigned* value) {
  *value = 16;
  return machine.query_status;
}
int nvmlDeviceGetPersistenceMode(void*, int* is_on) {
  *is_on = 1;
  return machine.query_status;
}
int nvmlDeviceGetEccMode(void*, int* current, int* pending) {
  *current = 1;
  *pending = 0;
  return machine.query_status;
}
int nvmlDeviceGetPerformanceState(void*, int* state) {
  *state = 8;
  return machine.query_status;
}
int nvmlDeviceGetTotalEccErrors(void*, int type, int counter, unsigned long long* count) {
  *count = type == 1 && counter == 0 ? 3 : 77;
  return machine.query_status;
}
int nvmlDeviceGetTopologyCommonAncestor(void*, void*, int* level) {
  *level = 40;
  return machine.query_status;
}
int nvmlDeviceGetGpuFabricInfoV(void*, void* info) {
  struct {
    unsigned version;
    unsigned char cluster[16];
    int status;
    unsigned clique;
    unsigned char state;
    unsigned health;
  } fabric{};
  std::memcpy(&fabric, info, sizeof fabric);
  if (fabric.version != (sizeof fabric | 2u << 24)) return 25;  // NVML_ERROR_ARGUMENT_VERSION_MISMATCH
  if (machine.is_rack)
    for (int i = 0; i < 16; ++i) fabric.cluster[i] = static_cast<unsigned char>(0x11 * (i % 8) + 0xc);
  fabric.clique = 7;
  fabric.state = 3;
  std::memcpy(info, &fabric, sizeof fabric);
  return machine.query_status;
}
int nvmlDeviceGetFieldValues(void*, int, void* values) {
  struct {
    unsigned field, scope;
    long long timestamp, latency;
    int type, status;
    unsigned long long value;
  } field;
  std::memcpy(&field, values, sizeof field);
  field.status = field.field == 90 ? 0 : 3;
  field.value = 26562;
  std::memcpy(values, &field, sizeof field);
  return machine.query_status;
}
}
