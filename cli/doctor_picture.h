#pragma once
#include <string>

#include "lane/doctor/doctor.h"
#include "lane/inventory/inventory.h"

namespace lane::cli {

// A machine in a few lines for people: what it is made of, and which NICs each GPU is near.
std::string picture_of(const inventory::Inventory& inventory);

// "costs are for llama-3-70b, batch 16, tensor parallel over 16 GPUs: ..."
std::string words_for(const doctor::Workload& workload, int num_gpus);

}  // namespace lane::cli
