#include <modelopt/kernels/attention.h>

#include <cstdio>

int main() { std::puts(modelopt::kernels::attention_backends().c_str()); }
