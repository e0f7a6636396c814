// Names from ATA/ATAPI-6 (T13/1410D) and MMC-4 (T10/1545D): register bits, commands, sense codes.
#pragma once
#include "dm/core/types.h"

namespace rhea::hw::ata {

// Status and error registers (ATA/ATAPI-6, 7.15 and 7.9).
enum : u8 { ERR = 0x01, DRQ = 0x08, DSC = 0x10, DF = 0x20, DRDY = 0x40, BSY = 0x80 };
enum : u8 { ABRT = 0x04, IDNF = 0x10, UNC = 0x40 };
// Device control (7.8) and the device register (7.7).
enum : u8 { nIEN = 0x02, SRST = 0x04, HOB = 0x80, DEV = 0x10, LBA = 0x40 };
// Interrupt reason, in the sector count register of a packet device.
enum : u8 { CoD = 0x01, IO = 0x02 };

enum : u8 {
    DEVICE_RESET = 0x08,
    READ_SECTORS = 0x20,
    READ_SECTORS_EXT = 0x24,
    READ_DMA_EXT = 0x25,
    READ_NATIVE_MAX_EXT = 0x27,
    READ_MULTIPLE_EXT = 0x29,
    WRITE_SECTORS = 0x30,
    WRITE_SECTORS_EXT = 0x34,
    WRITE_DMA_EXT = 0x35,
    WRITE_MULTIPLE_EXT = 0x39,
    READ_VERIFY = 0x40,
    READ_VERIFY_EXT = 0x42,
    EXECUTE_DEVICE_DIAGNOSTIC = 0x90,
    INITIALIZE_DEVICE_PARAMETERS = 0x91,
    PACKET = 0xa0,
    IDENTIFY_PACKET_DEVICE = 0xa1,
    SMART = 0xb0,
    READ_MULTIPLE = 0xc4,
    WRITE_MULTIPLE = 0xc5,
    SET_MULTIPLE_MODE = 0xc6,
    READ_DMA = 0xc8,
    WRITE_DMA = 0xca,
    STANDBY_IMMEDIATE = 0xe0,
    IDLE_IMMEDIATE = 0xe1,
    STANDBY = 0xe2,
    IDLE = 0xe3,
    CHECK_POWER_MODE = 0xe5,
    SLEEP = 0xe6,
    FLUSH_CACHE = 0xe7,
    FLUSH_CACHE_EXT = 0xea,
    IDENTIFY_DEVICE = 0xec,
    SET_FEATURES = 0xef,
    READ_NATIVE_MAX = 0xf8,
};

// Packet commands.
enum : u8 {
    TEST_UNIT_READY = 0x00,
    REQUEST_SENSE = 0x03,
    INQUIRY = 0x12,
    MODE_SENSE_6 = 0x1a,
    START_STOP_UNIT = 0x1b,
    PREVENT_ALLOW = 0x1e,
    READ_CAPACITY = 0x25,
    READ_10 = 0x28,
    SEEK_10 = 0x2b,
    READ_SUBCHANNEL = 0x42,
    READ_TOC = 0x43,
    GET_CONFIGURATION = 0x46,
    GET_EVENT_STATUS = 0x4a,
    READ_DISC_INFORMATION = 0x51,
    MODE_SENSE_10 = 0x5a,
    READ_12 = 0xa8,
    SET_SPEED = 0xbb,
    MECHANISM_STATUS = 0xbd,
    READ_CD = 0xbe,
};
enum : u8 { NO_SENSE, NOT_READY = 2, MEDIUM_ERROR = 3, ILLEGAL_REQUEST = 5, UNIT_ATTENTION = 6 };
// Additional sense codes.
enum : u8 {
    UNRECOVERED_READ_ERROR = 0x11,
    INVALID_OPCODE = 0x20,
    LBA_OUT_OF_RANGE = 0x21,
    INVALID_FIELD = 0x24,
    MEDIUM_MAY_HAVE_CHANGED = 0x28,
    RESET_OCCURRED = 0x29,
    MEDIUM_NOT_PRESENT = 0x3a,
    REMOVAL_PREVENTED = 0x53,
    ILLEGAL_MODE_FOR_TRACK = 0x64,
};

} // namespace rhea::hw::ata
