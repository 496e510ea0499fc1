#pragma once
#include "lane/inventory/calls.h"
#include "lane/inventory/pci.h"

namespace lane::inventory {

// Facts os.*, iommu.mode, and limits.* where `facts` lacks them.
void read_os(Files& files, std::map<std::string, Fact>& facts);

// The host's CPUs, memory and NUMA nodes. Of a copy (a root) only what its files say: not this process's affinity.
topology::Machine read_machine(Files& files, std::map<std::string, Fact>& facts);

// nvidia.driver, open_modules, peermem, dmabuf, lib.ofed; with a root lib.* from the names of its files.
void read_driver(Files& files, std::map<std::string, Fact>& facts);

// nvidia.fabric_manager, imex and persistence: from processes, and from what is known of the GPUs.
void read_services(Files& files, const topology::Host& host, std::map<std::string, Fact>& facts);

bool is_virtual_machine(const std::map<std::string, Fact>& facts);

// What a GPU's device number tells for certain; fields that it does not tell are unknown.
topology::Gpu gpu_from_id(const PciDevice& device);

// Puts `fact` where nothing is known yet.
void add_fact(std::map<std::string, Fact>& facts, const std::string& key, Fact fact);

}  // namespace lane::inventory
