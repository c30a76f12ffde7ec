#pragma once
#include "backends/cuda/linear.h"
