// Every device type of the catalog goes through the conformance suite.
#include "hw/catalog.h"
#include "tests/device/conformance.h"

#include <gtest/gtest.h>

namespace rhea {
namespace {

class Catalog : public testing::TestWithParam<const DeviceType *> {
protected:
    conformance::Subject subject() const { return conformance::subject(*GetParam()); }
};

std::vector<const DeviceType *> all_types() {
    std::vector<const DeviceType *> all;
    for (const DeviceType &type : hw::catalog())
        all.push_back(&type);
    return all;
}
std::string test_name(const testing::TestParamInfo<const DeviceType *> &info) {
    std::string name(info.param->name);
    for (char &c : name)
        if (c == '-')
            c = '_';
    return name;
}
INSTANTIATE_TEST_SUITE_P(every, Catalog, testing::ValuesIn(all_types()), test_name);

TEST_P(Catalog, reset_is_idempotent) {
    EXPECT_EQ(conformance::check_reset_is_idempotent(subject()), "");
}
TEST_P(Catalog, windows_take_every_access) {
    EXPECT_EQ(conformance::check_windows_take_every_access(subject()), "");
}
TEST_P(Catalog, state_survives_save_and_load) {
    EXPECT_EQ(conformance::check_state_survives_save_and_load(subject()), "");
}
TEST_P(Catalog, a_restored_device_behaves_the_same) {
    EXPECT_EQ(conformance::check_a_restored_device_behaves_the_same(subject()), "");
}
TEST_P(Catalog, damaged_state_is_refused_or_harmless) {
    EXPECT_EQ(conformance::check_damaged_state_is_refused_or_harmless(subject()), "");
}
TEST_P(Catalog, noise_ends) {
    EXPECT_EQ(conformance::check_noise_ends(subject()), "");
}

TEST_P(Catalog, the_device_is_of_the_type_that_was_asked_for) {
    Bench bench;
    const auto device = GetParam()->make("it", bench.resources, "");
    EXPECT_EQ(device->type(), GetParam()->name);
    EXPECT_EQ(device->name(), "it");
}

} // namespace
} // namespace rhea
